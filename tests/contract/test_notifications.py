"""What is told: once per cause, to all who want it, whoever dies on the way."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from threading import Barrier
from typing import TypeVar

import pytest
from sqlalchemy import select

from app.database.engine import Database
from app.errors import StoreUnavailable
from app.store.notification_outbox import NotificationDelivery, NotificationOutbox
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
    """An endpoint that wants what matches a pattern."""

    name: str
    pattern: str = "*"

    def accepts(self, kind: str) -> bool:
        return fnmatchcase(kind, self.pattern)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def notices(store: Database) -> Notifications:
    return Notifications(store)


@pytest.fixture
def outbox(store: Database) -> NotificationOutbox:
    return NotificationOutbox(store)


def states(store: Database) -> dict[tuple[str, str], str]:
    """What became of the posts, by the cause of their notice and their endpoint."""
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


def test_a_cause_is_told_of_once(notices: Notifications) -> None:
    later = Notification(SETTLED.kind, SETTLED.subject, SETTLED.cause, after(9), {"other": True})
    another = Notification("run.reconciled", "r1", "completed again", after(1), {})

    assert [notices.add(each) for each in (SETTLED, later, another)] == [True, False, True]
    assert notices.for_subject("r1", limit=9) == [SETTLED, another]
    assert notices.for_subject("r1", limit=1) == [SETTLED]
    assert notices.for_subject("r2", limit=9) == []


def test_a_cause_that_two_find_at_once_is_told_of_once(notices: Notifications) -> None:
    assert sorted(at_once(lambda: notices.add(SETTLED), 4)) == [False, False, False, True]


def test_no_two_causes_are_one() -> None:
    parts = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", 'b", "c', ""), ("a\0b", "c", "")]

    assert len({Notification(*each, NOW, {}).id for each in parts}) == len(parts)


def test_what_lasts_is_told_of_once_until_it_is_over(notices: Notifications) -> None:
    again, elsewhere = (
        Notification("sink.failing", sink, "since 13:00", after(3600), {"sink": sink})
        for sink in ("main", "lake")
    )

    assert notices.open(FAILING)
    assert not notices.open(FAILING)
    assert not notices.open(again)
    assert notices.open(elsewhere)
    assert notices.list_open("sink.failing") == [FAILING, elsewhere]

    assert notices.close("sink.failing", "main", now=after(60))
    assert not notices.close("sink.failing", "main", now=after(60))
    assert notices.list_open("sink.failing") == [elsewhere]
    # The same cause was told of already.
    assert not notices.open(FAILING)
    assert notices.open(again)
    assert notices.for_subject("main", limit=9) == [FAILING, again]


def test_what_two_see_begin_at_once_begins_once(notices: Notifications) -> None:
    starts = iter(range(4))

    def begin() -> bool:
        return notices.open(Notification("sink.failing", "main", f"since {next(starts)}", NOW, {}))

    assert sorted(at_once(begin, 4)) == [False, False, False, True]


def test_what_only_happened_does_not_last(notices: Notifications) -> None:
    notices.add(SETTLED)

    assert notices.list_open("run.reconciled") == []


def test_what_no_database_holds_comes_out_fit_to_be_sent(
    notices: Notifications, outbox: NotificationOutbox
) -> None:
    odd = Notification("run.reconciled", "r\0\ud800", "c\0", NOW, {"reason": "x\0\udfffü"})
    notices.add(odd)
    outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=9)

    post = claim(outbox)

    assert post is not None
    assert post.notification.id == odd.id
    assert (post.notification.subject, post.notification.payload) == (
        "r\ufffd\ufffd",
        {"reason": "x\0\ufffdü"},
    )
    assert not notices.add(odd)


def test_a_notice_goes_to_every_endpoint_that_wants_it(
    notices: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    notices.add(SETTLED)
    notices.open(FAILING)

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


def test_nobody_is_told_later_of_what_nobody_wanted(
    notices: Notifications, outbox: NotificationOutbox
) -> None:
    notices.add(SETTLED)

    assert outbox.fan_out([], now=NOW, limit=9) == 1

    assert outbox.fan_out([FakeSubscriber("a")], now=after(1), limit=9) == 0
    assert claim(outbox, at_s=2) is None


def test_what_is_not_posted_at_once_is_posted_next(
    notices: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    for number in range(5):
        notices.add(Notification("run.reconciled", f"r{number}", "", after(number), {}))

    assert [outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert [post.notification.subject for post in iter(lambda: claim(outbox), None)] == [
        f"r{n}" for n in range(5)
    ]


def test_two_that_post_at_once_post_once(
    notices: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    for number in range(40):
        notices.add(Notification("run.reconciled", f"r{number}", str(number), NOW, {}))

    at_once(
        lambda: [
            outbox.fan_out([FakeSubscriber("a"), FakeSubscriber("b")], now=NOW, limit=5) for _ in range(8)
        ],
        4,
    )

    assert outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=40) == 0
    assert len(states(store)) == 80


def test_of_many_that_claim_one_gets_a_post(notices: Notifications, outbox: NotificationOutbox) -> None:
    for number in range(20):
        notices.add(Notification("run.reconciled", f"r{number}", "", NOW, {}))
    outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=20)

    claimed = at_once(lambda: list(iter(lambda: claim(outbox), None)), 4)

    subjects = [post.notification.subject for posts in claimed for post in posts]
    # Who finds nothing free goes home: what another holds at that moment is not lost, it is due next.
    subjects += [post.notification.subject for post in iter(lambda: claim(outbox), None)]
    assert sorted(subjects) == sorted(f"r{number}" for number in range(20))


def test_what_is_lost_between_claim_and_sent_is_claimed_again(
    notices: Notifications, outbox: NotificationOutbox
) -> None:
    notices.add(SETTLED)
    outbox.fan_out([FakeSubscriber("a"), FakeSubscriber("b")], now=NOW, limit=9)

    first, early, second = (claim(outbox, at_s=at_s) for at_s in (0, 59, 61))

    assert early is None
    assert first == NotificationDelivery(SETTLED, "a", 1, NOW)
    assert second == NotificationDelivery(SETTLED, "a", 2, NOW)
    assert claim(outbox, "b", at_s=61) == NotificationDelivery(SETTLED, "b", 1, NOW)


def test_what_is_sent_or_given_up_is_never_claimed_again(
    notices: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    notices.add(SETTLED)
    outbox.fan_out([FakeSubscriber("a"), FakeSubscriber("b")], now=NOW, limit=9)
    to_a, to_b = claim(outbox, "a"), claim(outbox, "b")
    assert to_a is not None
    assert to_b is not None

    outbox.mark_sent(to_a)
    outbox.mark_dead(to_b, "it answered 410")

    assert [claim(outbox, name, at_s=10**6) for name in "ab"] == [None, None]
    assert states(store) == {("completed", "a"): "sent", ("completed", "b"): "dead"}


def test_what_is_postponed_waits_until_it_is_due(notices: Notifications, outbox: NotificationOutbox) -> None:
    notices.add(SETTLED)
    outbox.fan_out([FakeSubscriber("a")], now=NOW, limit=9)
    post = claim(outbox)
    assert post is not None

    outbox.reschedule(post, due_at=after(5), message="it answered 500")

    early, again = claim(outbox, at_s=4), claim(outbox, at_s=5)
    assert early is None
    assert again is not None
    assert again.attempts == 2


def test_who_comes_late_undoes_nothing(
    notices: Notifications, outbox: NotificationOutbox, store: Database
) -> None:
    notices.add(SETTLED)
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


def test_a_store_that_is_away_is_said_to_be(
    store: Database, notices: Notifications, outbox: NotificationOutbox
) -> None:
    with store.engine.begin() as connection:
        notification_deliveries.drop(connection)
        notices_table.drop(connection)

    for attempt in (
        lambda: notices.add(SETTLED),
        lambda: notices.close("sink.failing", "main", now=NOW),
        lambda: notices.for_subject("r1", limit=1),
        lambda: outbox.fan_out([], now=NOW, limit=1),
        lambda: claim(outbox),
        lambda: outbox.mark_sent(NotificationDelivery(SETTLED, "a", 1, NOW)),
    ):
        with pytest.raises(StoreUnavailable, match="rapidbridge migrate"):
            attempt()
