"""Guarantees of the store about refused and starting runs, on every database."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.models import DeliveryState, IncomingDelivery, RunUpdate
from app.store.runs import Runs
from app.truto.events import Envelope
from tests.support.due import lease_due

NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
LONG_AGO = NOW - timedelta(hours=6)


@pytest.fixture
def run_store(store: Database) -> Runs:
    return Runs(store)


def make_start(
    run: str, reason: str = "", *, received_at: datetime = NOW, **envelope_fields: Any
) -> IncomingDelivery:
    body = f"started {run}".encode()
    envelope = Envelope(
        event="sync_job_run:started",
        webhook_id="w",
        environment_id="e",
        sync_job_id="job",
        sync_job_run_id=run,
        integrated_account_id="account",
        created_at=NOW - SECOND,
    )
    return IncomingDelivery(
        body,
        hashlib.sha256(body).digest(),
        received_at,
        replace(envelope, **envelope_fields),
        DeliveryState.REFUSED if reason else DeliveryState.PENDING,
        reason,
    )


def make_run_update(run: str, job: str = "job", account: str = "account", *, at: datetime = NOW) -> RunUpdate:
    return RunUpdate(run, job, account, "e", at, "w", "running", at, 1)


def test_a_refused_run_is_known_without_further_deliveries(store: Database, run_store: Runs) -> None:
    other = replace(make_start("", "no run"), body=b"x", digest=b"x")

    Inbox(store).put([make_start("r", "not\0today"), other, make_start("in")])

    [run] = run_store.find_runs({}, since=None, limit=10)
    assert (run.sync_job_run_id, run.sync_job_id, run.integrated_account_id) == ("r", "job", "account")
    assert (run.environment_id, run.webhook_id) == ("e", "w")
    assert (run.status, run.status_rank, run.refusal_reason) == ("refused", 2, "not\ufffdtoday")
    assert (run.status_at, run.first_seen_at, run.stopped_at) == (NOW - SECOND, NOW, NOW)
    assert lease_due(store, now=NOW + 60 * SECOND, limit=10, requeue_after_s=60) != []


def test_a_repeated_start_does_not_refuse_an_accepted_run(store: Database, run_store: Runs) -> None:
    inbox = Inbox(store)
    inbox.put([make_start("r")])
    run_store.start_unless_overlapping(make_run_update("r"), active_since=LONG_AGO)

    inbox.put([make_start("r", "too late")])

    run = run_store.get("r")
    assert run is not None
    assert (run.status, run.refusal_reason, run.stopped_at) == ("running", "", None)


@pytest.mark.parametrize("created_at", [NOW - SECOND, None])
def test_a_repeated_start_does_not_accept_a_refused_run(
    store: Database, run_store: Runs, created_at: datetime | None
) -> None:
    inbox = Inbox(store)
    inbox.put([make_start("r", "no", created_at=created_at)])

    # The gate does this before it is known that the start is repeated.
    run_store.start_unless_overlapping(
        replace(make_run_update("r"), status_at=created_at), active_since=LONG_AGO
    )
    [receipt] = inbox.put([make_start("r", created_at=created_at, received_at=NOW + SECOND)])

    run = run_store.get("r")
    assert run is not None
    assert (receipt.refusal_reason, run.status, run.refusal_reason) == ("no", "refused", "no")
    assert run_store.start_unless_overlapping(make_run_update("other"), active_since=LONG_AGO) is None


def test_the_refusal_reason_is_stored_after_a_newer_event(store: Database, run_store: Runs) -> None:
    run_store.upsert(replace(make_run_update("r", at=NOW), status="stopped", status_rank=2, stopped_at=NOW))

    Inbox(store).put([make_start("r", "no")])

    run = run_store.get("r")
    assert run is not None
    assert (run.status, run.refusal_reason) == ("stopped", "no")


def test_exactly_one_of_concurrent_starts_is_accepted(store: Database) -> None:
    at_once = Barrier(8)

    def start(run: str) -> str | None:
        # Every process has a connection pool of its own.
        own = open_database(store.engine.url.render_as_string(hide_password=False))
        at_once.wait()
        try:
            return Runs(own).start_unless_overlapping(
                make_run_update(run, job=run.partition(" ")[0]), active_since=LONG_AGO
            )
        finally:
            own.close()

    for job in ("1", "2", "3"):
        runs = [f"{job} {number}" for number in range(8)]
        with ThreadPoolExecutor(8) as starters:
            others = dict(zip(runs, starters.map(start, runs), strict=True))

        [winner] = [run for run, other in others.items() if other is None]
        assert {other for other in others.values() if other} == {winner}


def test_only_an_active_run_of_the_same_job_and_account_blocks_a_start(
    store: Database, run_store: Runs
) -> None:
    assert run_store.start_unless_overlapping(make_run_update("first"), active_since=LONG_AGO) is None

    assert run_store.start_unless_overlapping(make_run_update("second"), active_since=LONG_AGO) == "first"
    assert run_store.get("second") is None
    assert run_store.start_unless_overlapping(make_run_update("first"), active_since=LONG_AGO) is None
    assert (
        run_store.start_unless_overlapping(make_run_update("third", job="another"), active_since=LONG_AGO)
        is None
    )
    assert (
        run_store.start_unless_overlapping(
            make_run_update("fourth", account="another"), active_since=LONG_AGO
        )
        is None
    )
    run_store.upsert(replace(make_run_update("first", at=NOW + SECOND), status="completed", status_rank=2))
    assert run_store.start_unless_overlapping(make_run_update("second"), active_since=LONG_AGO) is None


def test_a_run_without_recent_deliveries_does_not_block_a_start(store: Database, run_store: Runs) -> None:
    run_store.start_unless_overlapping(
        make_run_update("quiet", at=LONG_AGO - SECOND), active_since=LONG_AGO - 2 * SECOND
    )
    assert (
        run_store.start_unless_overlapping(make_run_update("second"), active_since=LONG_AGO - 2 * SECOND)
        == "quiet"
    )

    Inbox(store).put([make_start("quiet", received_at=LONG_AGO)])
    assert run_store.start_unless_overlapping(make_run_update("second"), active_since=LONG_AGO) == "quiet"
    assert (
        run_store.start_unless_overlapping(make_run_update("second"), active_since=LONG_AGO + SECOND) is None
    )
