"""Guarantees of the store about runs, on every database."""

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
def run_store(store: Database) -> Runs:
    return Runs(store)


def make_run_update(status: str = "", *, run: str = "run", at_s: float = 0, rank: int = 1) -> RunUpdate:
    at = NOW + timedelta(seconds=at_s)
    if not status:
        return RunUpdate(run, "job", "account", "", at)
    stopped_at = at if status == "stopped" else None
    return RunUpdate(run, "job", "account", "env", at, "hook", status, at, rank, '{"id": "run"}', stopped_at)


def receive(store: Database, *, run: str = "run", at: datetime = NOW, name: str = "1") -> StateChange:
    """Put a batch of three records into the inbox; return the state change that settles it."""
    body = f"{run} {name}".encode()
    incoming = IncomingDelivery(
        body,
        hashlib.sha256(body).digest(),
        at,
        Envelope(event="sync_job_run:record", sync_job_run_id=run, resource="crm/contacts", method="list"),
    )
    [receipt] = Inbox(store).put([incoming])
    return StateChange(receipt.delivery_id, DeliveryState.SETTLED, 3, "", due_at=NOW)


def get_run(run_store: Runs, run: str = "run") -> StoredRun:
    run_row = run_store.get(run)
    assert run_row
    return run_row


def test_an_event_without_a_status_keeps_the_status(run_store: Runs) -> None:
    run_store.upsert(make_run_update("running"))
    run_store.upsert(RunUpdate("run", "", "", "", NOW, "", "", NOW + timedelta(seconds=9), -1, None))

    assert (get_run(run_store).status, get_run(run_store).status_rank, get_run(run_store).run) == (
        "running",
        1,
        '{"id": "run"}',
    )


@pytest.mark.parametrize("batch_first", [True, False])
def test_ids_of_a_run_are_taken_from_any_event(run_store: Runs, *, batch_first: bool) -> None:
    sights = [
        RunUpdate("run", "job", "", "", NOW),
        RunUpdate("run", "", "account", "env", NOW, "hook", "created", NOW, 0),
    ]
    for sight in sights if batch_first else reversed(sights):
        run_store.upsert(sight)

    run = get_run(run_store)
    assert (run.sync_job_id, run.integrated_account_id, run.environment_id, run.webhook_id) == (
        "job",
        "account",
        "env",
        "hook",
    )


def test_the_later_of_two_final_events_counts_and_the_stop_time_stays(run_store: Runs) -> None:
    for sight in (make_run_update("failed", at_s=2, rank=2), make_run_update("stopped", at_s=1, rank=2)):
        run_store.upsert(sight)

    assert get_run(run_store).status == "failed"
    assert get_run(run_store).stopped_at == NOW + timedelta(seconds=1)


@pytest.mark.parametrize("backwards", [True, False])
def test_a_run_that_continues_is_neither_stopped_nor_refused(run_store: Runs, *, backwards: bool) -> None:
    refused = replace(
        make_run_update("stopped", at_s=1, rank=2), status="refused", refusal_reason="not today"
    )
    sights = [refused, make_run_update("running", at_s=2)]
    for sight in reversed(sights) if backwards else sights:
        run_store.upsert(sight)

    run = get_run(run_store)
    assert (run.status, run.stopped_at, run.refusal_reason) == ("running", None, "")


def test_every_unreconciled_run_is_listed_once_across_pages(run_store: Runs) -> None:
    for number in range(7):
        # Two runs for every time.
        run_store.upsert(make_run_update("running", run=f"run-{number}", at_s=number // 2))

    ids = [run.sync_job_run_id for run in run_store.list_unreconciled(page_size=2)]

    assert ids == [f"run-{number}" for number in range(7)]


def test_a_run_with_a_newer_delivery_is_not_marked_reconciled(store: Database, run_store: Runs) -> None:
    run_store.upsert(make_run_update("completed", rank=2))
    before = get_run(run_store)
    DeliveryResults(store).save([DeliveryResult(receive(store), run=make_run_update())], now=LATER)

    assert not run_store.mark_reconciled(before, now=LATER)
    assert run_store.mark_reconciled(get_run(run_store), now=LATER)


def test_records_after_a_stop_are_counted_as_late(store: Database, run_store: Runs) -> None:
    verdicts = [receive(store, at=NOW + timedelta(seconds=n), name=str(n)) for n in (1, 3, 4)]
    run_store.upsert(make_run_update("stopped", at_s=2, rank=2))
    DeliveryResults(store).save([DeliveryResult(state_change) for state_change in verdicts], now=LATER)

    [group] = read_run_totals(store, ["run"])["run"].batches

    assert (group.batches, group.records, group.late) == (3, 9, 6)


def test_batches_without_a_run_are_counted_under_no_run(store: Database) -> None:
    state_change = receive(store, run="")
    DeliveryResults(store).save([DeliveryResult(state_change)], now=LATER)

    [group] = read_run_totals(store, [""])[""].batches
    assert group.records == 3


def test_a_run_with_a_pending_batch_is_not_marked_reconciled(store: Database, run_store: Runs) -> None:
    state_change = receive(store)
    run_store.upsert(make_run_update("completed", rank=2))

    too_early = run_store.mark_reconciled(get_run(run_store), now=LATER)
    DeliveryResults(store).save([DeliveryResult(state_change)], now=LATER)

    assert not too_early
    assert run_store.mark_reconciled(get_run(run_store), now=LATER)
    assert list(run_store.list_unreconciled()) == []


def test_a_new_delivery_makes_a_run_unreconciled(store: Database, run_store: Runs) -> None:
    run_store.upsert(make_run_update("completed", rank=2))
    assert run_store.mark_reconciled(get_run(run_store), now=LATER)

    DeliveryResults(store).save([DeliveryResult(receive(store), run=make_run_update())], now=LATER)

    assert [run.sync_job_run_id for run in run_store.list_unreconciled()] == ["run"]
    assert get_run(run_store).status == "completed"


def test_a_run_with_a_newer_event_is_not_marked_reconciled(run_store: Runs) -> None:
    run_store.upsert(make_run_update("completed", rank=2))
    before = get_run(run_store)
    run_store.upsert(make_run_update("failed", at_s=1, rank=2))

    assert not run_store.mark_reconciled(before, now=LATER)


def test_a_run_knows_the_time_of_its_newest_delivery(store: Database, run_store: Runs) -> None:
    run_store.upsert(make_run_update("running"))
    assert get_run(run_store).last_seen_at is None

    receive(store, at=LATER)

    assert get_run(run_store).last_seen_at == LATER


def test_a_stop_is_requested_once(run_store: Runs) -> None:
    run_store.upsert(make_run_update("running"))

    assert [run_store.request_stop("run", cause) for cause in ("too many errors", "another")] == [True, False]
    assert get_run(run_store).stop_reason == "too many errors"


def test_a_run_that_was_silent_for_a_day_is_checked_again_after_a_stop_request(run_store: Runs) -> None:
    run_store.upsert(make_run_update("running"))
    assert run_store.mark_reconciled(get_run(run_store), now=LATER)

    assert run_store.request_stop("run", "too many errors")

    assert [run.sync_job_run_id for run in run_store.list_unreconciled()] == ["run"]


def test_a_stop_is_listed_until_truto_accepts_it_or_the_run_ends(run_store: Runs) -> None:
    for run in ("none", "sent", "ended", "unsent"):
        run_store.upsert(make_run_update("running", run=run))
    for run in ("sent", "ended", "unsent"):
        run_store.request_stop(run, "too many errors")
    run_store.mark_stop_sent("sent", now=LATER)
    run_store.upsert(make_run_update("completed", run="ended", at_s=1, rank=2))

    assert [run.sync_job_run_id for run in run_store.list_unsent_stops(limit=9)] == ["unsent"]


def test_no_stop_is_requested_for_an_ended_run(run_store: Runs) -> None:
    run_store.upsert(make_run_update("completed", rank=2))

    assert not run_store.request_stop("run", "too many errors")


def test_runs_are_found_by_filters_newest_first(run_store: Runs) -> None:
    for number in range(5):
        run_store.upsert(
            make_run_update(
                "failed" if number == 2 else "completed", run=f"run-{number}", at_s=number, rank=2
            )
        )

    def ids(filters: dict[str, str], since: datetime | None = None, limit: int = 9) -> list[str]:
        return [run.sync_job_run_id for run in run_store.find_runs(filters, since=since, limit=limit)]

    assert ids({}, limit=2) == ["run-4", "run-3"]
    assert ids({"status": "failed"}) == ["run-2"]
    assert ids({"sync_job_id": "another"}) == []
    assert ids({}, since=NOW + timedelta(seconds=3)) == ["run-4", "run-3"]


@pytest.mark.parametrize(("state", "dead"), [("pending", 0), ("dead", 3), ("settled", 0)])
def test_records_are_dead_if_their_delivery_failed_too_long(
    store: Database, state: DeliveryState, dead: int
) -> None:
    state_change = replace(receive(store), state=state)
    failing = SinkOutcome(
        state_change.delivery_id, "main", SinkOutcomeState.FAILING, 0, 0, "sink_unavailable", "", NOW
    )
    done = replace(failing, state=SinkOutcomeState.DONE, written=3)

    DeliveryResults(store).save(
        [DeliveryResult(state_change, outcomes=[done if state == "settled" else failing])], now=LATER
    )

    [sink] = read_run_totals(store, ["run"])["run"].sinks
    assert (sink.records, sink.dead) == (3, dead)
