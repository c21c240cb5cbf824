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

from app.database.engine import Store
from app.errors import StoreUnavailable
from app.store.notification_outbox import Outbox, Post
from app.store.notifications import Notice, Notices
from app.store.schema import notices as notices_table
from app.store.schema import posts

T = TypeVar("T")
NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
SETTLED = Notice("run.settled", "r1", "completed", NOW, {"sync_job_run_id": "r1", "resources": [{"n": 1}]})
FAILING = Notice("sink.failing", "main", "since 12:00", NOW, {"sink": "main"})


@dataclass(frozen=True)
class To:
    """An endpoint that wants what matches a pattern."""

    name: str
    pattern: str = "*"

    def wants(self, kind: str) -> bool:
        return fnmatchcase(kind, self.pattern)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def notices(store: Store) -> Notices:
    return Notices(store)


@pytest.fixture
def outbox(store: Store) -> Outbox:
    return Outbox(store)


def states(store: Store) -> dict[tuple[str, str], str]:
    """What became of the posts, by the cause of their notice and their endpoint."""
    statement = select(notices_table.c.cause, posts.c.endpoint, posts.c.state).join(
        posts, posts.c.notice_id == notices_table.c.id
    )
    with store.connect() as connection:
        return {(row.cause, row.endpoint): row.state for row in connection.execute(statement)}


def at_once(action: Callable[[], T], times: int) -> list[T]:
    barrier = Barrier(times)

    def act(_: int) -> T:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(act, range(times)))


def claim(outbox: Outbox, endpoint: str = "a", *, at_s: float = 0) -> Post | None:
    return outbox.claim(endpoint, now=after(at_s), lease_s=60)


def test_a_cause_is_told_of_once(notices: Notices) -> None:
    later = Notice(SETTLED.kind, SETTLED.subject, SETTLED.cause, after(9), {"other": True})
    another = Notice("run.settled", "r1", "completed again", after(1), {})

    assert [notices.note(each) for each in (SETTLED, later, another)] == [True, False, True]
    assert notices.of("r1", most=9) == [SETTLED, another]
    assert notices.of("r1", most=1) == [SETTLED]
    assert notices.of("r2", most=9) == []


def test_a_cause_that_two_find_at_once_is_told_of_once(notices: Notices) -> None:
    assert sorted(at_once(lambda: notices.note(SETTLED), 4)) == [False, False, False, True]


def test_no_two_causes_are_one() -> None:
    parts = [("a", "b", "c"), ("ab", "", "c"), ("a", "bc", ""), ("a", 'b", "c', ""), ("a\0b", "c", "")]

    assert len({Notice(*each, NOW, {}).id for each in parts}) == len(parts)


def test_what_lasts_is_told_of_once_until_it_is_over(notices: Notices) -> None:
    again, elsewhere = (
        Notice("sink.failing", sink, "since 13:00", after(3600), {"sink": sink}) for sink in ("main", "lake")
    )

    assert notices.begin(FAILING)
    assert not notices.begin(FAILING)
    assert not notices.begin(again)
    assert notices.begin(elsewhere)
    assert notices.lasting("sink.failing") == [FAILING, elsewhere]

    assert notices.end("sink.failing", "main", now=after(60))
    assert not notices.end("sink.failing", "main", now=after(60))
    assert notices.lasting("sink.failing") == [elsewhere]
    # The same cause was told of already.
    assert not notices.begin(FAILING)
    assert notices.begin(again)
    assert notices.of("main", most=9) == [FAILING, again]


def test_what_two_see_begin_at_once_begins_once(notices: Notices) -> None:
    starts = iter(range(4))

    def begin() -> bool:
        return notices.begin(Notice("sink.failing", "main", f"since {next(starts)}", NOW, {}))

    assert sorted(at_once(begin, 4)) == [False, False, False, True]


def test_what_only_happened_does_not_last(notices: Notices) -> None:
    notices.note(SETTLED)

    assert notices.lasting("run.settled") == []


def test_what_no_database_holds_comes_out_fit_to_be_sent(notices: Notices, outbox: Outbox) -> None:
    odd = Notice("run.settled", "r\0\ud800", "c\0", NOW, {"reason": "x\0\udfffü"})
    notices.note(odd)
    outbox.post([To("a")], now=NOW, most=9)

    post = claim(outbox)

    assert post is not None
    assert post.notice.id == odd.id
    assert (post.notice.subject, post.notice.told) == ("r\ufffd\ufffd", {"reason": "x\0\ufffdü"})
    assert not notices.note(odd)


def test_a_notice_goes_to_every_endpoint_that_wants_it(
    notices: Notices, outbox: Outbox, store: Store
) -> None:
    notices.note(SETTLED)
    notices.begin(FAILING)

    assert outbox.post([To("a"), To("b", "run.*"), To("c", "webhook.*")], now=NOW, most=9) == 2

    assert states(store) == {
        ("completed", "a"): "pending",
        ("since 12:00", "a"): "pending",
        ("completed", "b"): "pending",
    }


def test_nobody_is_told_later_of_what_nobody_wanted(notices: Notices, outbox: Outbox) -> None:
    notices.note(SETTLED)

    assert outbox.post([], now=NOW, most=9) == 1

    assert outbox.post([To("a")], now=after(1), most=9) == 0
    assert claim(outbox, at_s=2) is None


def test_what_is_not_posted_at_once_is_posted_next(notices: Notices, outbox: Outbox, store: Store) -> None:
    for number in range(5):
        notices.note(Notice("run.settled", f"r{number}", "", after(number), {}))

    assert [outbox.post([To("a")], now=NOW, most=2) for _ in range(4)] == [2, 2, 1, 0]
    assert [post.notice.subject for post in iter(lambda: claim(outbox), None)] == [f"r{n}" for n in range(5)]


def test_two_that_post_at_once_post_once(notices: Notices, outbox: Outbox, store: Store) -> None:
    for number in range(40):
        notices.note(Notice("run.settled", f"r{number}", str(number), NOW, {}))

    at_once(lambda: [outbox.post([To("a"), To("b")], now=NOW, most=5) for _ in range(8)], 4)

    assert outbox.post([To("a")], now=NOW, most=40) == 0
    assert len(states(store)) == 80


def test_of_many_that_claim_one_gets_a_post(notices: Notices, outbox: Outbox) -> None:
    for number in range(20):
        notices.note(Notice("run.settled", f"r{number}", "", NOW, {}))
    outbox.post([To("a")], now=NOW, most=20)

    claimed = at_once(lambda: list(iter(lambda: claim(outbox), None)), 4)

    subjects = [post.notice.subject for posts in claimed for post in posts]
    # Who finds nothing free goes home: what another holds at that moment is not lost, it is due next.
    subjects += [post.notice.subject for post in iter(lambda: claim(outbox), None)]
    assert sorted(subjects) == sorted(f"r{number}" for number in range(20))


def test_what_is_lost_between_claim_and_sent_is_claimed_again(notices: Notices, outbox: Outbox) -> None:
    notices.note(SETTLED)
    outbox.post([To("a"), To("b")], now=NOW, most=9)

    first, early, second = (claim(outbox, at_s=at_s) for at_s in (0, 59, 61))

    assert early is None
    assert first == Post(SETTLED, "a", 1, NOW)
    assert second == Post(SETTLED, "a", 2, NOW)
    assert claim(outbox, "b", at_s=61) == Post(SETTLED, "b", 1, NOW)


def test_what_is_sent_or_given_up_is_never_claimed_again(
    notices: Notices, outbox: Outbox, store: Store
) -> None:
    notices.note(SETTLED)
    outbox.post([To("a"), To("b")], now=NOW, most=9)
    to_a, to_b = claim(outbox, "a"), claim(outbox, "b")
    assert to_a is not None
    assert to_b is not None

    outbox.sent(to_a)
    outbox.give_up(to_b, "it answered 410")

    assert [claim(outbox, name, at_s=10**6) for name in "ab"] == [None, None]
    assert states(store) == {("completed", "a"): "sent", ("completed", "b"): "dead"}


def test_what_is_postponed_waits_until_it_is_due(notices: Notices, outbox: Outbox) -> None:
    notices.note(SETTLED)
    outbox.post([To("a")], now=NOW, most=9)
    post = claim(outbox)
    assert post is not None

    outbox.postpone(post, due_at=after(5), message="it answered 500")

    early, again = claim(outbox, at_s=4), claim(outbox, at_s=5)
    assert early is None
    assert again is not None
    assert again.attempts == 2


def test_who_comes_late_undoes_nothing(notices: Notices, outbox: Outbox, store: Store) -> None:
    notices.note(SETTLED)
    outbox.post([To("a")], now=NOW, most=9)
    late, in_time = claim(outbox), claim(outbox, at_s=61)
    assert late is not None
    assert in_time is not None

    outbox.give_up(late, "too late")
    outbox.postpone(late, due_at=NOW, message="too late")
    assert claim(outbox, at_s=62) is None
    outbox.sent(in_time)
    outbox.postpone(late, due_at=NOW, message="too late")

    assert states(store) == {("completed", "a"): "sent"}


def test_a_store_that_is_away_is_said_to_be(store: Store, notices: Notices, outbox: Outbox) -> None:
    with store.begin() as connection:
        posts.drop(connection)
        notices_table.drop(connection)

    for attempt in (
        lambda: notices.note(SETTLED),
        lambda: notices.end("sink.failing", "main", now=NOW),
        lambda: notices.of("r1", most=1),
        lambda: outbox.post([], now=NOW, most=1),
        lambda: claim(outbox),
        lambda: outbox.sent(Post(SETTLED, "a", 1, NOW)),
    ):
        with pytest.raises(StoreUnavailable, match="rapidbridge migrate"):
            attempt()
