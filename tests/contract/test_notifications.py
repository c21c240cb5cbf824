"""Notifications: once per cause, to every subscriber, despite crashes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import partial
from threading import Barrier
from typing import TypeVar

import pytest
from sqlalchemy import select

from app.database.engine import Database
from app.errors import StoreUnavailable
from app.store.notification_outbox import NotificationDelivery, NotificationOutbox, UnsentNotifications
from app.store.notifications import Notification, Notifications
from app.store.schema import notification_deliveries
from app.store.schema import notifications as notices_table

T = TypeVar("T")
NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
SETTLED = Notification(
    "run.reconciled", "r1", "completed", NOW, {"sync_job_run_id": "r1", "resources": [{"n": 1}]}
)
FAILING = Notification("sink.failing", "main", "since 12:00", NOW, {"sink": "main"})


@dataclass(frozen=True)
class FakeSubscriber:
    """A subscriber that accepts the kinds that match a pattern."""

    name: str
    pattern: str = "*"
    receives_ends: bool = False

    def accepts(self, kind: str) -> bool:
        return fnmatchcase(kind, self.pattern)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def notification_store(store: Database) -> Notifications:
    return Notifications(store)


@pytest.fixture
def outbox(store: Database) -> NotificationOutbox:
    return NotificationOutbox(store)


def states(store: Database) -> dict[tuple[str, str], str]:
    """Return the states of the deliveries by cause and subscriber."""
    statement = select(
        notices_table.c.cause, notification_deliveries.c.subscriber, notification_deliveries.c.state
    ).join(notification_deliveries, notification_deliveries.c.notification_id == notices_table.c.id)
    with store.engine.connect() as connection:
        return {(row.cause, row.subscriber): row.state for row in connection.execute(statement)}


def at_once(action: Callable[[], T], times: int) -> list[T]:
    barrier = Barrier(times)

    def act(_: int) -> T:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(act, range(times)))


def claim(
    outbox: NotificationOutbox, subscriber: str = "a", *, at_s: float = 0
) -> NotificationDelivery | None:
    return outbox.lease_next(subscriber, now=after(at_s), lease_s=60)


def test_a_cause_is_notified_once(notification_store: Notifications) -> None:
    later = Notification(SETTLED.kind, SETTLED.subject, SETTLED.cause, after(9), {"other": True})
    another = Notification("run.reconciled", "r1", "completed again", after(1), {})

    assert [notification_store.add(item) for item in (SETTLED, later, another)] == [True, False, True]
    assert notification_store.for_subject("r1", limit=9) == [SETTLED, another]
    assert notification_store.for_subject("r1", limit=1) == [SETTLED]
    assert notification_store.for_subject("r2", limit=9) == []


def test_a_cause_found_by_concurrent_processes_is_notified_once(notification_store: Notifications) -> None:
    assert sorted(at_once(lambda: notification_store.add(SETTLED), 4)) == [False, False, False, True]


def test_different_causes_have_different_ids() -> None:
    parts = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", 'b", "c', ""), ("a\0b", "c", "")]

    assert len({Notification(*item, NOW, {}).id for item in parts}) == len(parts)


def test_a_condition_has_one_open_notification_until_it_ends(notification_store: Notifications) -> None:
    again, elsewhere = (
        Notification("sink.failing", sink, "since 13:00", after(3600), {"sink": sink})
        for sink in ("main", "lake")
    )

    assert notification_store.open(FAILING)
    assert not notification_store.open(FAILING)
    assert not notification_store.open(again)
    assert notification_store.open(elsewhere)
    assert notification_store.list_open("sink.failing") == [FAILING, elsewhere]

    assert notification_store.close("sink.failing", "main", now=after(60))
    assert not notification_store.close("sink.failing", "main", now=after(60))
    assert notification_store.list_open("sink.failing") == [elsewhere]
    # The same cause was notified before.
    assert not notification_store.open(FAILING)
    assert notification_store.open(again)
    assert notification_store.for_subject("main", limit=9) == [FAILING, again]


def test_a_condition_found_by_concurrent_processes_is_opened_once(notification_store: Notifications) -> None:
    starts = iter(range(4))

    def begin() -> bool:
        return notification_store.open(Notification("sink.failing", "main", f"since {next(starts)}", NOW, {}))

    assert sorted(at_once(begin, 4)) == [False, False, False, True]


def test_a_notification_of_an_event_is_never_open(notification_store: Notifications) -> None:
    notification_store.add(SETTLED)

    assert notification_store.list_open("run.reconciled") == []


def test_unstorable_characters_are_replaced_in_the_payload(
    notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    odd = Notification("run.reconciled", "r\0\ud800", "c\0", NOW, {"reason": "x\0\udfffü"})
    notification_store.add(odd)
    outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=9)

    post = claim(outbox)

    assert post is not None
    assert post.notification.id == odd.id
    assert (post.notification.subject, post.notification.payload) == (
        "r\ufffd\ufffd",
        {"reason": "x\0\ufffdü"},
    )
    assert not notification_store.add(odd)


def test_a_notification_is_delivered_to_every_subscriber_that_accepts_it(
    notification_store: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    notification_store.add(SETTLED)
    notification_store.open(FAILING)

    assert (
        outbox.fan_out(
            [FakeSubscriber("a"), FakeSubscriber("b", "run.*"), FakeSubscriber("c", "webhook.*")],
            now=NOW,
            limit=9,
        )
        == 2
    )

    assert states(store) == {
        ("completed", "a"): "pending",
        ("since 12:00", "a"): "pending",
        ("completed", "b"): "pending",
    }


def test_a_later_subscriber_gets_no_earlier_notifications(
    notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    notification_store.add(SETTLED)

    assert outbox.fan_out([], now=NOW, limit=9) == 1

    assert outbox.fan_out([FakeSubscriber("a")], now=after(1), limit=9) == 0
    assert claim(outbox, at_s=2) is None


def test_notifications_beyond_the_limit_are_fanned_out_next(
    notification_store: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    for number in range(5):
        notification_store.add(Notification("run.reconciled", f"r{number}", "", after(number), {}))

    assert [outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert [post.notification.subject for post in iter(lambda: claim(outbox), None)] == [
        f"r{n}" for n in range(5)
    ]


def test_concurrent_fan_outs_create_each_delivery_once(
    notification_store: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    for number in range(40):
        notification_store.add(Notification("run.reconciled", f"r{number}", str(number), NOW, {}))

    at_once(
        lambda: [
            outbox.fan_out([FakeSubscriber("a"), FakeSubscriber("b")], now=NOW, limit=5) for _ in range(8)
        ],
        4,
    )

    assert outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=40) == 0
    assert len(states(store)) == 80


def test_only_one_process_leases_a_notification_delivery(
    notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    for number in range(20):
        notification_store.add(Notification("run.reconciled", f"r{number}", "", NOW, {}))
    outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=20)

    claimed = at_once(lambda: list(iter(lambda: claim(outbox), None)), 4)

    subjects = [post.notification.subject for posts in claimed for post in posts]
    # A process that finds every delivery locked returns; the locked ones are due next.
    subjects += [post.notification.subject for post in iter(lambda: claim(outbox), None)]
    assert sorted(subjects) == sorted(f"r{number}" for number in range(20))


def test_a_notification_delivery_is_leased_again_if_its_process_dies(
    notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    notification_store.add(SETTLED)
    outbox.fan_out([FakeSubscriber("a"), FakeSubscriber("b")], now=NOW, limit=9)

    first, early, second = (claim(outbox, at_s=at_s) for at_s in (0, 59, 61))

    assert early is None
    assert first == NotificationDelivery(SETTLED, "a", 1, NOW)
    assert second == NotificationDelivery(SETTLED, "a", 2, NOW)
    assert claim(outbox, "b", at_s=61) == NotificationDelivery(SETTLED, "b", 1, NOW)


def test_a_sent_or_dead_notification_delivery_is_never_leased_again(
    notification_store: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    notification_store.add(SETTLED)
    outbox.fan_out([FakeSubscriber("a"), FakeSubscriber("b")], now=NOW, limit=9)
    to_a, to_b = claim(outbox, "a"), claim(outbox, "b")
    assert to_a is not None
    assert to_b is not None

    outbox.mark_sent(to_a)
    outbox.mark_dead(to_b, "it answered 410")

    assert [claim(outbox, name, at_s=10**6) for name in "ab"] == [None, None]
    assert states(store) == {("completed", "a"): "sent", ("completed", "b"): "dead"}


def test_a_rescheduled_notification_delivery_is_not_leased_before_it_is_due(
    notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    notification_store.add(SETTLED)
    outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=9)
    post = claim(outbox)
    assert post is not None

    outbox.reschedule(post, due_at=after(5), message="it answered 500")

    early, again = claim(outbox, at_s=4), claim(outbox, at_s=5)
    assert early is None
    assert again is not None
    assert again.attempts == 2


def test_a_late_attempt_does_not_overwrite_a_newer_result(
    notification_store: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    notification_store.add(SETTLED)
    outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=9)
    late, in_time = claim(outbox), claim(outbox, at_s=61)
    assert late is not None
    assert in_time is not None

    outbox.mark_dead(late, "too late")
    outbox.reschedule(late, due_at=NOW, message="too late")
    assert claim(outbox, at_s=62) is None
    outbox.mark_sent(in_time)
    outbox.reschedule(late, due_at=NOW, message="too late")

    assert states(store) == {("completed", "a"): "sent"}


def call_next(actions: Iterator[Callable[[], object]]) -> None:
    next(actions)()


PAGER = FakeSubscriber("pager", receives_ends=True)


def test_the_end_of_a_condition_is_sent_to_subscribers_that_receive_ends(
    notification_store: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    notification_store.open(FAILING)
    notification_store.add(SETTLED)
    outbox.fan_out([FakeSubscriber("a"), PAGER], now=NOW, limit=9)
    for name in ("a", "a", "pager", "pager"):
        begin = claim(outbox, name)
        assert begin is not None
        assert not begin.is_ending
        outbox.mark_sent(begin)

    notification_store.close("sink.failing", "main", now=after(90))

    end = claim(outbox, "pager", at_s=90)
    assert end == NotificationDelivery(FAILING, "pager", 1, after(90), is_ending=True)
    assert claim(outbox, "a", at_s=999) is None
    outbox.mark_sent(end)
    assert claim(outbox, "pager", at_s=999) is None
    assert set(states(store).values()) == {"sent"}


def test_a_condition_that_ends_while_its_beginning_is_sent_ends_afterwards(
    notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    notification_store.open(FAILING)
    outbox.fan_out([PAGER], now=NOW, limit=9)
    begin = claim(outbox, "pager")
    assert begin is not None

    notification_store.close("sink.failing", "main", now=after(1))
    outbox.mark_sent(begin)

    end = claim(outbox, "pager", at_s=61)
    assert end is not None
    assert (end.is_ending, end.attempts) == (True, 2)


def test_a_condition_that_ends_before_it_is_sent_sends_its_end_only(
    notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    notification_store.open(FAILING)
    outbox.fan_out([PAGER], now=NOW, limit=9)
    notification_store.close("sink.failing", "main", now=after(1))
    lake = Notification("sink.failing", "lake", "c", NOW, {})
    notification_store.open(lake)
    notification_store.close("sink.failing", "lake", now=after(1))
    outbox.fan_out([PAGER], now=NOW, limit=9)

    assert [post.is_ending for post in iter(lambda: claim(outbox, "pager", at_s=2), None)] == [True, True]


def test_a_condition_ends_once_despite_a_simultaneous_send(
    notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    for number in range(10):
        notification_store.open(Notification("sink.failing", str(number), "c", NOW, {}))
        outbox.fan_out([PAGER], now=NOW, limit=9)
        begin = claim(outbox, "pager")
        assert begin is not None
        todo: Iterator[Callable[[], object]] = iter(
            [
                partial(outbox.mark_sent, begin),
                partial(notification_store.close, "sink.failing", str(number), now=after(1)),
            ]
        )

        at_once(partial(call_next, todo), 2)

        end = claim(outbox, "pager", at_s=61)
        assert end is not None
        assert end.is_ending
        outbox.mark_sent(end)
        assert claim(outbox, "pager", at_s=999) is None


def test_a_subscriber_that_never_received_the_beginning_receives_no_end(
    notification_store: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    notification_store.open(FAILING)
    outbox.fan_out([PAGER], now=NOW, limit=9)
    begin = claim(outbox, "pager")
    assert begin is not None
    outbox.mark_dead(begin, "it answered 410")

    notification_store.close("sink.failing", "main", now=after(1))

    assert claim(outbox, "pager", at_s=999) is None
    assert states(store) == {("since 12:00", "pager"): "dead"}


def test_notifications_that_no_subscriber_accepts_are_counted_by_subscriber(
    outbox: NotificationOutbox, notification_store: Notifications
) -> None:
    for number in range(3):
        notification_store.add(Notification("run.stopped", f"r{number}", "c", NOW, {}))
    subscribers = [FakeSubscriber("gone"), FakeSubscriber("removed"), FakeSubscriber("works")]
    outbox.fan_out(subscribers, now=NOW, limit=9)
    for _ in range(3):
        if dead := outbox.lease_next("gone", now=NOW, lease_s=9):
            outbox.mark_dead(dead, "the subscriber answered 410")
        if sent := outbox.lease_next("works", now=NOW, lease_s=9):
            outbox.mark_sent(sent)

    at_once = outbox.find_unsent(now=after(60))
    later = outbox.find_unsent(now=after(600))
    in_a_month = outbox.find_unsent(now=after(30 * 86400))

    gone = UnsentNotifications("gone", 3, "the subscriber answered 410")
    removed = UnsentNotifications("removed", 3, "")
    assert (at_once, later, in_a_month) == ([gone], [gone, removed], [removed])


def test_open_and_recent_notifications_are_counted(notification_store: Notifications) -> None:
    for subject in ("a", "b"):
        notification_store.open(Notification("sink.failing", subject, "c", NOW, {}))
        notification_store.add(Notification("run.incomplete", subject, "c", NOW, {}))
    notification_store.close("sink.failing", "b", now=NOW)

    assert notification_store.count_open() == {"sink.failing": 1}
    assert notification_store.count_since("run.incomplete", NOW) == 2
    assert notification_store.count_since("run.incomplete", after(1)) == 0


def test_an_unreachable_database_raises_store_unavailable(
    store: Database, notification_store: Notifications, outbox: NotificationOutbox
) -> None:
    with store.engine.begin() as connection:
        notification_deliveries.drop(connection)
        notices_table.drop(connection)

    for attempt in (
        lambda: notification_store.add(SETTLED),
        lambda: notification_store.close("sink.failing", "main", now=NOW),
        lambda: notification_store.for_subject("r1", limit=1),
        lambda: outbox.fan_out([], now=NOW, limit=1),
        lambda: claim(outbox),
        lambda: outbox.mark_sent(NotificationDelivery(SETTLED, "a", 1, NOW)),
    ):
        with pytest.raises(StoreUnavailable, match="rapidbridge migrate"):
            attempt()
