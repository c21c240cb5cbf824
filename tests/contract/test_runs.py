"""What the store promises about runs, on every database it runs on."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.database.engine import Database
from app.store.inbox import Inbox
from app.store.models import (
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    RunUpdate,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
)
from app.store.results import DeliveryResults
from app.store.run_totals import read_run_totals
from app.store.runs import Runs, StoredRun
from app.truto.events import Envelope

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


@pytest.fixture
def book(store: Database) -> Runs:
    return Runs(store)


def make_run_update(status: str = "", *, run: str = "run", at_s: float = 0, rank: int = 1) -> RunUpdate:
    at = NOW + timedelta(seconds=at_s)
    if not status:
        return RunUpdate(run, "job", "account", "", at)
    stopped_at = at if status == "stopped" else None
    return RunUpdate(run, "job", "account", "env", at, "hook", status, at, rank, '{"id": "run"}', stopped_at)


def receive(store: Database, *, run: str = "run", at: datetime = NOW, name: str = "1") -> StateChange:
    """Put a batch of three records into the inbox; return the verdict that settles it."""
    body = f"{run} {name}".encode()
    arrival = IncomingDelivery(
        body,
        hashlib.sha256(body).digest(),
        at,
        Envelope(event="sync_job_run:record", sync_job_run_id=run, resource="crm/contacts", method="list"),
    )
    [receipt] = Inbox(store).put([arrival])
    return StateChange(receipt.delivery_id, DeliveryState.SETTLED, 3, "", due_at=NOW)


def get_run(book: Runs, run: str = "run") -> StoredRun:
    run_row = book.get(run)
    assert run_row
    return run_row


def test_an_event_that_names_no_status_leaves_it(book: Runs) -> None:
    book.upsert(make_run_update("running"))
    book.upsert(RunUpdate("run", "", "", "", NOW, "", "", NOW + timedelta(seconds=9), -1, None))

    assert (get_run(book).status, get_run(book).status_rank, get_run(book).run) == (
        "running",
        1,
        '{"id": "run"}',
    )


@pytest.mark.parametrize("batch_first", [True, False])
def test_ids_are_taken_from_whatever_names_them(book: Runs, *, batch_first: bool) -> None:
    sights = [
        RunUpdate("run", "job", "", "", NOW),
        RunUpdate("run", "", "account", "env", NOW, "hook", "created", NOW, 0),
    ]
    for sight in sights if batch_first else reversed(sights):
        book.upsert(sight)

    run = get_run(book)
    assert (run.sync_job_id, run.integrated_account_id, run.environment_id, run.webhook_id) == (
        "job",
        "account",
        "env",
        "hook",
    )


def test_of_two_ends_the_later_one_counts_and_the_stop_is_remembered(book: Runs) -> None:
    for sight in (make_run_update("failed", at_s=2, rank=2), make_run_update("stopped", at_s=1, rank=2)):
        book.upsert(sight)

    assert get_run(book).status == "failed"
    assert get_run(book).stopped_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize("backwards", [True, False])
def test_a_run_that_goes_on_after_a_stop_or_a_refusal_is_neither(book: Runs, *, backwards: bool) -> None:
    refused = replace(
        make_run_update("stopped", at_s=1, rank=2), status="refused", refusal_reason="not today"
    )
    sights = [refused, make_run_update("running", at_s=2)]
    for sight in reversed(sights) if backwards else sights:
        book.upsert(sight)

    run = get_run(book)
    assert (run.status, run.stopped_at, run.refusal_reason) == ("running", None, "")


def test_all_runs_are_looked_at_however_many_there_are(book: Runs) -> None:
    for number in range(7):
        # Two of each moment.
        book.upsert(make_run_update("running", run=f"run-{number}", at_s=number // 2))

    ids = [run.sync_job_run_id for run in book.list_unreconciled(page_size=2)]

    assert ids == [f"run-{number}" for number in range(7)]


def test_a_run_of_which_more_came_meanwhile_is_not_settled(store: Database, book: Runs) -> None:
    book.upsert(make_run_update("completed", rank=2))
    before = get_run(book)
    DeliveryResults(store).save([DeliveryResult(receive(store), run=make_run_update())], now=LATER)

    assert not book.mark_reconciled(before, now=LATER)
    assert book.mark_reconciled(get_run(book), now=LATER)


def test_what_came_after_a_stop_is_counted_as_late(store: Database, book: Runs) -> None:
    verdicts = [receive(store, at=NOW + timedelta(seconds=n), name=str(n)) for n in (1, 3, 4)]
    book.upsert(make_run_update("stopped", at_s=2, rank=2))
    DeliveryResults(store).save([DeliveryResult(verdict) for verdict in verdicts], now=LATER)

    [group] = read_run_totals(store, ["run"])["run"].batches

    assert (group.batches, group.records, group.late) == (3, 9, 6)


def test_batches_that_name_no_run_are_counted_under_none(store: Database) -> None:
    verdict = receive(store, run="")
    DeliveryResults(store).save([DeliveryResult(verdict)], now=LATER)

    [group] = read_run_totals(store, [""])[""].batches
    assert group.records == 3


def test_a_run_is_not_over_while_a_batch_waits(store: Database, book: Runs) -> None:
    verdict = receive(store)
    book.upsert(make_run_update("completed", rank=2))

    too_early = book.mark_reconciled(get_run(book), now=LATER)
    DeliveryResults(store).save([DeliveryResult(verdict)], now=LATER)

    assert not too_early
    assert book.mark_reconciled(get_run(book), now=LATER)
    assert list(book.list_unreconciled()) == []


def test_more_of_a_run_makes_it_be_looked_at_again(store: Database, book: Runs) -> None:
    book.upsert(make_run_update("completed", rank=2))
    assert book.mark_reconciled(get_run(book), now=LATER)

    DeliveryResults(store).save([DeliveryResult(receive(store), run=make_run_update())], now=LATER)

    assert [run.sync_job_run_id for run in book.list_unreconciled()] == ["run"]
    assert get_run(book).status == "completed"


def test_a_run_of_which_more_was_said_meanwhile_is_not_settled(book: Runs) -> None:
    book.upsert(make_run_update("completed", rank=2))
    before = get_run(book)
    book.upsert(make_run_update("failed", at_s=1, rank=2))

    assert not book.mark_reconciled(before, now=LATER)


def test_it_is_known_when_something_last_came(store: Database, book: Runs) -> None:
    book.upsert(make_run_update("running"))
    assert get_run(book).last_seen_at is None

    receive(store, at=LATER)

    assert get_run(book).last_seen_at == LATER


def test_a_stop_is_wanted_once(book: Runs) -> None:
    book.upsert(make_run_update("running"))

    assert [book.request_stop("run", cause) for cause in ("too many errors", "another")] == [True, False]
    assert get_run(book).stop_reason == "too many errors"


def test_a_run_that_has_ended_needs_no_stop(book: Runs) -> None:
    book.upsert(make_run_update("completed", rank=2))

    assert not book.request_stop("run", "too many errors")


def test_runs_are_found_newest_first_and_by_what_they_are(book: Runs) -> None:
    for number in range(5):
        book.upsert(
            make_run_update(
                "failed" if number == 2 else "completed", run=f"run-{number}", at_s=number, rank=2
            )
        )

    def ids(filters: dict[str, str], since: datetime | None = None, limit: int = 9) -> list[str]:
        return [run.sync_job_run_id for run in book.find_runs(filters, since=since, limit=limit)]

    assert ids({}, limit=2) == ["run-4", "run-3"]
    assert ids({"status": "failed"}) == ["run-2"]
    assert ids({"sync_job_id": "another"}) == []
    assert ids({}, since=NOW + timedelta(seconds=3)) == ["run-4", "run-3"]


@pytest.mark.parametrize(("state", "dead"), [("pending", 0), ("dead", 3), ("settled", 0)])
def test_what_a_sink_did_not_take_for_too_long_is_dead(
    store: Database, state: DeliveryState, dead: int
) -> None:
    verdict = replace(receive(store), state=state)
    failing = SinkOutcome(
        verdict.delivery_id, "main", SinkOutcomeState.FAILING, 0, 0, "sink_unavailable", "", NOW
    )
    done = replace(failing, state=SinkOutcomeState.DONE, written=3)

    DeliveryResults(store).save(
        [DeliveryResult(verdict, outcomes=[done if state == "settled" else failing])], now=LATER
    )

    [sink] = read_run_totals(store, ["run"])["run"].sinks
    assert (sink.records, sink.dead) == (3, dead)
