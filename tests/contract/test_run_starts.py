"""What the store promises about runs that are refused or start, on every database it runs on."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest

from app.database.engine import Store, open_store
from app.store.facts import RunSeen
from app.store.inbox import Inbox
from app.store.models import Arrival
from app.store.pending import Worklist
from app.store.runs import RunBook

NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LONG_AGO = NOW - timedelta(hours=6)


@pytest.fixture
def book(store: Store) -> RunBook:
    return RunBook(store)


def started(run: str, reason: str = "", **changes: object) -> Arrival:
    body = f"started {run}".encode()
    plain = Arrival(
        body,
        hashlib.sha256(body).digest(),
        NOW,
        "refused" if reason else "pending",
        reason,
        event="sync_job_run:started",
        webhook_id="w",
        environment_id="e",
        sync_job_id="job",
        sync_job_run_id=run,
        integrated_account_id="account",
        created_at=NOW - SECOND,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # any field


def seen(run: str, job: str = "job", account: str = "account", *, at: datetime = NOW) -> RunSeen:
    return RunSeen(run, job, account, "e", at, "w", "running", at, 1)


def test_a_refused_run_is_known_even_if_nothing_else_ever_comes_of_it(store: Store, book: RunBook) -> None:
    other = replace(started("", "no run"), body=b"x", digest=b"x")

    Inbox(store).put([started("r", "not\0today"), other, started("in")])

    [run] = book.find({}, since=None, most=10)
    assert (run.sync_job_run_id, run.sync_job_id, run.integrated_account_id) == ("r", "job", "account")
    assert (run.environment_id, run.webhook_id) == ("e", "w")
    assert (run.status, run.status_rank, run.refused) == ("refused", 2, "not\ufffdtoday")
    assert (run.status_at, run.first_seen_at, run.stopped_at) == (NOW - SECOND, NOW, NOW)
    assert Worklist(store).wake(now=NOW + 60 * SECOND, most=10, again_after_s=60) != []


def test_a_run_that_was_let_in_is_not_refused_by_a_repeated_start(store: Store, book: RunBook) -> None:
    inbox = Inbox(store)
    inbox.put([started("r")])
    book.open(seen("r"), heard_since=LONG_AGO)

    inbox.put([started("r", "too late")])

    run = book.get("r")
    assert run is not None
    assert (run.status, run.refused, run.stopped_at) == ("running", "", None)


@pytest.mark.parametrize("created_at", [NOW - SECOND, None])
def test_a_run_that_was_refused_is_not_let_in_by_a_repeated_start(
    store: Store, book: RunBook, created_at: datetime | None
) -> None:
    inbox = Inbox(store)
    inbox.put([started("r", "no", created_at=created_at)])

    # As the gate does before it is known that the start came before.
    book.open(replace(seen("r"), status_at=created_at), heard_since=LONG_AGO)
    [receipt] = inbox.put([started("r", created_at=created_at, received_at=NOW + SECOND)])

    run = book.get("r")
    assert run is not None
    assert (receipt.refused, run.status, run.refused) == ("no", "refused", "no")
    assert book.open(seen("other"), heard_since=LONG_AGO) is None


def test_why_a_run_was_refused_is_noted_after_newer_news_too(store: Store, book: RunBook) -> None:
    book.note(replace(seen("r", at=NOW), status="stopped", status_rank=2, stopped_at=NOW))

    Inbox(store).put([started("r", "no")])

    run = book.get("r")
    assert run is not None
    assert (run.status, run.refused) == ("stopped", "no")


def test_of_runs_that_start_at_once_exactly_one_is_let_in(store: Store) -> None:
    at_once = Barrier(8)

    def start(run: str) -> str | None:
        # A pool of connections of its own, as every process has.
        own = open_store(store.url.render_as_string(hide_password=False))
        at_once.wait()
        try:
            return RunBook(own).open(seen(run, job=run.partition(" ")[0]), heard_since=LONG_AGO)
        finally:
            own.dispose()

    for job in ("1", "2", "3"):
        runs = [f"{job} {number}" for number in range(8)]
        with ThreadPoolExecutor(8) as starters:
            others = dict(zip(runs, starters.map(start, runs), strict=True))

        [winner] = [run for run, other in others.items() if other is None]
        assert {other for other in others.values() if other} == {winner}


def test_only_an_open_run_of_the_same_job_and_account_is_in_the_way(store: Store, book: RunBook) -> None:
    assert book.open(seen("first"), heard_since=LONG_AGO) is None

    assert book.open(seen("second"), heard_since=LONG_AGO) == "first"
    assert book.get("second") is None
    assert book.open(seen("first"), heard_since=LONG_AGO) is None
    assert book.open(seen("third", job="another"), heard_since=LONG_AGO) is None
    assert book.open(seen("fourth", account="another"), heard_since=LONG_AGO) is None
    book.note(replace(seen("first", at=NOW + SECOND), status="completed", status_rank=2))
    assert book.open(seen("second"), heard_since=LONG_AGO) is None


def test_a_run_of_which_nothing_came_for_long_is_taken_for_lost(store: Store, book: RunBook) -> None:
    book.open(seen("quiet", at=LONG_AGO - SECOND), heard_since=LONG_AGO - 2 * SECOND)
    assert book.open(seen("second"), heard_since=LONG_AGO - 2 * SECOND) == "quiet"

    Inbox(store).put([started("quiet", received_at=LONG_AGO)])
    assert book.open(seen("second"), heard_since=LONG_AGO) == "quiet"
    assert book.open(seen("second"), heard_since=LONG_AGO + SECOND) is None
