"""What the store promises about runs, on every database it runs on."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.database.engine import Store
from app.store.facts import Outcome, RunSeen, Settlement
from app.store.inbox import Inbox
from app.store.models import Arrival, State, Verdict
from app.store.results import Ledger
from app.store.run_totals import read_figures
from app.store.runs import KnownRun, RunBook

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


@pytest.fixture
def book(store: Store) -> RunBook:
    return RunBook(store)


def seen(status: str = "", *, run: str = "run", at_s: float = 0, rank: int = 1) -> RunSeen:
    at = NOW + timedelta(seconds=at_s)
    if not status:
        return RunSeen(run, "job", "account", "", at)
    stopped_at = at if status == "stopped" else None
    return RunSeen(run, "job", "account", "env", at, "hook", status, at, rank, '{"id": "run"}', stopped_at)


def receive(store: Store, *, run: str = "run", at: datetime = NOW, name: str = "1") -> Verdict:
    """Put a batch of three records into the inbox; return the verdict that settles it."""
    body = f"{run} {name}".encode()
    arrival = Arrival(
        body,
        hashlib.sha256(body).digest(),
        at,
        "pending",
        event="sync_job_run:record",
        sync_job_run_id=run,
        resource="crm/contacts",
        method="list",
    )
    [receipt] = Inbox(store).put([arrival])
    return Verdict(receipt.delivery_id, "settled", 3, "", due_at=NOW)


def known(book: RunBook, run: str = "run") -> KnownRun:
    found = book.get(run)
    assert found
    return found


def test_an_event_that_names_no_status_leaves_it(book: RunBook) -> None:
    book.note(seen("running"))
    book.note(RunSeen("run", "", "", "", NOW, "", "", NOW + timedelta(seconds=9), -1, None))

    assert (known(book).status, known(book).status_rank, known(book).run) == ("running", 1, '{"id": "run"}')


@pytest.mark.parametrize("batch_first", [True, False])
def test_ids_are_taken_from_whatever_names_them(book: RunBook, *, batch_first: bool) -> None:
    sights = [
        RunSeen("run", "job", "", "", NOW),
        RunSeen("run", "", "account", "env", NOW, "hook", "created", NOW, 0),
    ]
    for sight in sights if batch_first else reversed(sights):
        book.note(sight)

    run = known(book)
    assert (run.sync_job_id, run.integrated_account_id, run.environment_id, run.webhook_id) == (
        "job",
        "account",
        "env",
        "hook",
    )


def test_of_two_ends_the_later_one_counts_and_the_stop_is_remembered(book: RunBook) -> None:
    for sight in (seen("failed", at_s=2, rank=2), seen("stopped", at_s=1, rank=2)):
        book.note(sight)

    assert known(book).status == "failed"
    assert known(book).stopped_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize("backwards", [True, False])
def test_a_run_that_goes_on_after_a_stop_or_a_refusal_is_neither(book: RunBook, *, backwards: bool) -> None:
    refused = replace(seen("stopped", at_s=1, rank=2), status="refused", refused="not today")
    sights = [refused, seen("running", at_s=2)]
    for sight in reversed(sights) if backwards else sights:
        book.note(sight)

    run = known(book)
    assert (run.status, run.stopped_at, run.refused) == ("running", None, "")


def test_all_runs_are_looked_at_however_many_there_are(book: RunBook) -> None:
    for number in range(7):
        # Two of each moment.
        book.note(seen("running", run=f"run-{number}", at_s=number // 2))

    ids = [run.sync_job_run_id for run in book.unsettled(page=2)]

    assert ids == [f"run-{number}" for number in range(7)]


def test_a_run_of_which_more_came_meanwhile_is_not_settled(store: Store, book: RunBook) -> None:
    book.note(seen("completed", rank=2))
    before = known(book)
    Ledger(store).settle([Settlement(receive(store), run=seen())], now=LATER)

    assert not book.settle(before, now=LATER)
    assert book.settle(known(book), now=LATER)


def test_what_came_after_a_stop_is_counted_as_late(store: Store, book: RunBook) -> None:
    verdicts = [receive(store, at=NOW + timedelta(seconds=n), name=str(n)) for n in (1, 3, 4)]
    book.note(seen("stopped", at_s=2, rank=2))
    Ledger(store).settle([Settlement(verdict) for verdict in verdicts], now=LATER)

    [group] = read_figures(store, ["run"])["run"].arrived

    assert (group.batches, group.records, group.late) == (3, 9, 6)


def test_batches_that_name_no_run_are_counted_under_none(store: Store) -> None:
    verdict = receive(store, run="")
    Ledger(store).settle([Settlement(verdict)], now=LATER)

    [group] = read_figures(store, [""])[""].arrived
    assert group.records == 3


def test_a_run_is_not_over_while_a_batch_waits(store: Store, book: RunBook) -> None:
    verdict = receive(store)
    book.note(seen("completed", rank=2))

    too_early = book.settle(known(book), now=LATER)
    Ledger(store).settle([Settlement(verdict)], now=LATER)

    assert not too_early
    assert book.settle(known(book), now=LATER)
    assert list(book.unsettled()) == []


def test_more_of_a_run_makes_it_be_looked_at_again(store: Store, book: RunBook) -> None:
    book.note(seen("completed", rank=2))
    assert book.settle(known(book), now=LATER)

    Ledger(store).settle([Settlement(receive(store), run=seen())], now=LATER)

    assert [run.sync_job_run_id for run in book.unsettled()] == ["run"]
    assert known(book).status == "completed"


def test_a_run_of_which_more_was_said_meanwhile_is_not_settled(book: RunBook) -> None:
    book.note(seen("completed", rank=2))
    before = known(book)
    book.note(seen("failed", at_s=1, rank=2))

    assert not book.settle(before, now=LATER)


def test_it_is_known_when_something_last_came(store: Store, book: RunBook) -> None:
    book.note(seen("running"))
    assert known(book).last_seen_at is None

    receive(store, at=LATER)

    assert known(book).last_seen_at == LATER


def test_a_stop_is_wanted_once(book: RunBook) -> None:
    book.note(seen("running"))

    assert [book.want_stop("run", cause) for cause in ("too many errors", "another")] == [True, False]
    assert known(book).stop_cause == "too many errors"


def test_a_run_that_has_ended_needs_no_stop(book: RunBook) -> None:
    book.note(seen("completed", rank=2))

    assert not book.want_stop("run", "too many errors")


def test_runs_are_found_newest_first_and_by_what_they_are(book: RunBook) -> None:
    for number in range(5):
        book.note(seen("failed" if number == 2 else "completed", run=f"run-{number}", at_s=number, rank=2))

    def ids(filters: dict[str, str], since: datetime | None = None, most: int = 9) -> list[str]:
        return [run.sync_job_run_id for run in book.find(filters, since=since, most=most)]

    assert ids({}, most=2) == ["run-4", "run-3"]
    assert ids({"status": "failed"}) == ["run-2"]
    assert ids({"sync_job_id": "another"}) == []
    assert ids({}, since=NOW + timedelta(seconds=3)) == ["run-4", "run-3"]


@pytest.mark.parametrize(("state", "dead"), [("pending", 0), ("dead", 3), ("settled", 0)])
def test_what_a_sink_did_not_take_for_too_long_is_dead(store: Store, state: State, dead: int) -> None:
    verdict = replace(receive(store), state=state)
    failing = Outcome(verdict.delivery_id, "main", "failing", 0, 0, "sink_unavailable", "", NOW)
    done = replace(failing, state="done", written=3)

    Ledger(store).settle([Settlement(verdict, outcomes=[done if state == "settled" else failing])], now=LATER)

    [sink] = read_figures(store, ["run"])["run"].sinks
    assert (sink.records, sink.dead) == (3, dead)
