"""The monitor: runs, sinks and webhooks that need attention."""

import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import select, update
from sqlalchemy import text as sql_text
from structlog.testing import capture_logs

from app.config.load import Config
from app.config.routes import Route, Routes, StopLimits
from app.config.settings import read_settings
from app.config.sinks import FilesSinkConfig, SqlSinkConfig
from app.database.engine import Database, open_engine
from app.errors import StoreUnavailable
from app.runs.stop_request import find_stop, request_stop
from app.store.delivery_filter import DeliveryFilter
from app.store.held import HELD_FOR
from app.store.inbox import Inbox
from app.store.models import (
    DeliveryResult,
    DeliveryState,
    IncomingDelivery,
    RunUpdate,
    SinkOutcome,
    SinkOutcomeState,
    StateChange,
    StoredRecordError,
)
from app.store.notification_outbox import NotificationOutbox
from app.store.notifications import Notification, Notifications
from app.store.response_counts import ResponseCounts
from app.store.results import DeliveryResults
from app.store.runs import Runs, StoredRun
from app.store.schema import notifications, runs
from app.store.sink_states import SinkState, SinkStates
from app.store.worker_registry import WorkerRecord, WorkerRegistry
from app.truto.events import Envelope
from app.truto.runs import status_rank
from app.truto.signature import parse_signature_header, sign
from tests.integration.test_simulated_api import TOKEN, FinishedRuns, finished_runs
from tests.support.fake_receiver import running_receiver
from tests.support.redis_keys import open_spool
from tests.support.replays import discard_all
from tests.support.web_process import SECRET
from workers.background.loop import PeriodicTask
from workers.background.monitor import Monitor
from workers.background.sink_monitor import SetUpMonitor

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
STATS = {"crm/contacts": {"list": {"fetched": 3, "persisted": 3}}}


class MonitorSetup:
    """A store with runs, a monitor, and a clock that tests advance."""

    def __init__(self, store: Database, redis: Redis, stop_at: StopLimits, settings: dict[str, str]) -> None:
        route = Route(sinks=("main",), stop_at=stop_at)
        routes = Routes(sinks={"main": SqlSinkConfig(type="sql", url="sqlite://")}, routes=(route,))
        self.config = Config(read_settings(settings), routes)
        self.store, self.spool, self.runs = store, open_spool(redis, store), Runs(store)
        self.now = NOW
        self._monitors: list[Monitor] = []
        self.monitor = self.add_monitor()

    def add_monitor(self) -> Monitor:
        self._monitors.append(Monitor(self.store, self.config, self.spool, clock=lambda: self.now))
        return self._monitors[-1]

    def close(self) -> None:
        for monitor in self._monitors:
            monitor.close()

    def advance(self, **span: float) -> None:
        """Advance the clock, then run the monitor once beside a live worker."""
        self.now += timedelta(**span)
        config = self.config.delivery_config
        worker = WorkerRecord("live:1:1", NOW, config.to_json(), config.digest)
        WorkerRegistry(self.store).record_heartbeat(worker, now=self.now)
        self.monitor.run_once()

    def update_run(
        self, status: str, *, run: str = "run", stats: Any = None, events_to_send: Any = None
    ) -> None:
        run_json = json.dumps(
            {"id": run, "status": status, "resource_stats": stats, "events_to_send": events_to_send}
        )
        stopped_at = self.now if status == "stopped" else None
        self.runs.upsert(
            RunUpdate(
                run,
                "job",
                "account",
                "env",
                self.now,
                "",
                status,
                self.now,
                status_rank(status),
                run_json,
                stopped_at,
            )
        )

    def receive(self, *, run: str = "run", name: str = "1", event: str = "sync_job_run:record") -> UUID:
        digest = f"{run} {name} {event}".encode().ljust(32)[:32]
        incoming = IncomingDelivery(
            b"{}",
            digest,
            self.now,
            Envelope(
                event=event,
                event_id=name,
                sync_job_run_id=run,
                integrated_account_id="account",
                resource="crm/contacts",
                method="list",
            ),
        )
        return Inbox(self.store).put([incoming])[0].delivery_id

    def settle(
        self, delivery: UUID, *, records: int = 3, dead: int = 0, run: str = "run", errors: int = 0
    ) -> None:
        outcome = SinkOutcome(delivery, "main", SinkOutcomeState.DONE, records - dead, dead, "", "", self.now)
        rows = [
            StoredRecordError(delivery, n, run, "crm/contacts", "list", 502, "", "{}") for n in range(errors)
        ]
        change = StateChange(delivery, DeliveryState.SETTLED, records, "", due_at=self.now)
        run_update = RunUpdate(run, "job", "account", "env", self.now)
        DeliveryResults(self.store).save(
            [DeliveryResult(change, run_update, [outcome], (), rows)], now=self.now
        )

    def get_run(self, run: str = "run") -> StoredRun:
        stored = self.runs.get(run)
        assert stored
        return stored

    def list_notifications(self, *kinds: str) -> list[Notification]:
        with self.store.engine.connect() as connection:
            rows = (
                connection.execute(select(notifications).order_by(notifications.c.occurred_at))
                .mappings()
                .all()
            )
        everything = [
            Notification(r["kind"], r["subject"], r["cause"], r["occurred_at"], json.loads(r["payload"]))
            for r in rows
        ]
        return [notification for notification in everything if not kinds or notification.kind in kinds]


Open = Callable[..., MonitorSetup]
NO_LIMIT = StopLimits()


@pytest.fixture
def open_setup(store: Database, redis: Redis) -> Iterator[Open]:
    """Opens a setup, connected to the simulated API if it is given finished runs."""
    with ExitStack() as stack:

        def open_setup(
            finished: FinishedRuns | None = None, stop_at: StopLimits = NO_LIMIT, **settings: str
        ) -> MonitorSetup:
            api_settings = {"TRUTO_API_URL": finished.url, "TRUTO_API_TOKEN": TOKEN} if finished else {}
            setup = MonitorSetup(store, redis, stop_at, api_settings | settings)
            stack.callback(setup.close)
            setup.now = datetime.now(UTC) if finished else NOW
            return setup

        yield open_setup


@pytest.fixture
def setup(open_setup: Open) -> MonitorSetup:
    return open_setup()


def test_a_run_is_reconciled_once_after_its_end_and_a_quiet_period(setup: MonitorSetup) -> None:
    setup.settle(setup.receive())
    setup.update_run("completed", stats=STATS)

    setup.advance(seconds=10)
    too_early = setup.list_notifications()
    setup.advance(seconds=30)
    setup.advance(seconds=30)

    assert too_early == []
    [notification] = setup.list_notifications()
    assert (notification.kind, notification.subject) == ("run.reconciled", "run")
    assert notification.payload["verdict"] == "complete"
    assert notification.payload["resources"] == [
        {
            "resource": "crm/contacts",
            "method": "list",
            "fetched": 3,
            "arrived": 3,
            "written": 3,
            "dead": 0,
            "missing": 0,
            "sinks": [{"sink": "main", "written": 3, "dead": 0}],
        }
    ]
    assert setup.get_run().reconciled_at


def test_a_run_is_not_reconciled_while_deliveries_are_pending_or_spooled(setup: MonitorSetup) -> None:
    waiting = setup.receive()
    setup.update_run("completed", stats=STATS)
    setup.advance(minutes=5)
    assert setup.list_notifications("run.reconciled") == []

    setup.settle(waiting)
    setup.spool.put(IncomingDelivery(b"{}", parse_signature_header(sign(b"{}", SECRET)), NOW))
    setup.advance(minutes=5)
    assert setup.list_notifications("run.reconciled") == []

    setup.spool.drain(lambda _: None)
    setup.advance(minutes=5)
    assert len(setup.list_notifications("run.reconciled")) == 1


def test_missing_records_are_notified_and_again_when_they_arrive(setup: MonitorSetup) -> None:
    setup.update_run("completed", stats=STATS)
    setup.advance(minutes=3)
    verdicts = [
        (notification.kind, notification.payload["verdict"]) for notification in setup.list_notifications()
    ]

    setup.settle(setup.receive())
    setup.advance(minutes=1)

    assert sorted(verdicts) == [("run.incomplete", "incomplete"), ("run.reconciled", "incomplete")]
    assert [
        notification.payload["verdict"] for notification in setup.list_notifications("run.reconciled")
    ] == [
        "incomplete",
        "complete",
    ]


@pytest.mark.parametrize("status", ["completed", "failed", "stopped"])
@pytest.mark.parametrize("waited_s", [5, 60, 110])
def test_pages_that_the_end_of_their_run_overtook_are_never_missing(
    setup: MonitorSetup, status: str, waited_s: int
) -> None:
    setup.settle(setup.receive(name="1"))
    setup.update_run(status, stats={"crm/contacts": {"list": {"fetched": 6, "persisted": 3}}})

    for _ in range(waited_s // 5):
        setup.advance(seconds=5)
    setup.settle(setup.receive(name="2"))
    for _ in range(10):
        setup.advance(seconds=5)

    assert setup.list_notifications("run.incomplete") == []
    [notification] = setup.list_notifications("run.reconciled")
    assert notification.payload["verdict"] == "complete"


def test_a_lost_page_is_missing_two_minutes_after_the_last_event(setup: MonitorSetup) -> None:
    setup.settle(setup.receive(name="1"))
    setup.update_run("completed", stats={"crm/contacts": {"list": {"fetched": 6, "persisted": 6}}})

    setup.advance(seconds=119)
    before = setup.list_notifications()
    setup.advance(seconds=5)

    assert before == []
    [notification] = setup.list_notifications("run.incomplete")
    assert notification.payload["resources"][0]["missing"] == 3


def test_while_records_are_in_flight_truto_is_asked_once(finished: FinishedRuns, open_setup: Open) -> None:
    setup = open_setup(finished)
    setup.update_run("completed", run=finished.run_id)
    setup.settle(setup.receive(run=finished.run_id), run=finished.run_id)

    for _ in range(20):
        setup.advance(seconds=5)

    assert setup.list_notifications() == []
    assert finished.requests.count(("GET", f"/sync-job-run/{finished.run_id}")) == 1


def test_the_end_that_a_run_does_not_send_is_read_from_truto(
    finished: FinishedRuns, open_setup: Open
) -> None:
    setup = open_setup(finished)
    # Only batches arrive: the receiver does not know the run's status.
    setup.settle(setup.receive(run=finished.run_id), run=finished.run_id)

    setup.advance(seconds=20)
    before = setup.get_run(finished.run_id)
    setup.advance(seconds=20)

    assert before.status == ""
    assert setup.get_run(finished.run_id).status == "completed"


def test_a_run_that_does_not_send_its_end_is_neither_stalled_nor_idle(open_setup: Open) -> None:
    setup = open_setup(stop_at=StopLimits(idle_minutes=2))
    setup.update_run("running", events_to_send=["started", "record"])
    setup.settle(setup.receive())

    setup.advance(hours=5)

    assert setup.list_notifications() == []
    assert setup.get_run().stop_reason == ""


def test_a_run_that_sends_its_end_stalls_without_it(setup: MonitorSetup) -> None:
    setup.update_run("running", events_to_send=["sync_job_run:record", "sync_job_run:completed"])

    setup.advance(hours=5)

    assert [notification.kind for notification in setup.list_notifications()] == ["run.stalled"]


def test_concurrent_monitors_send_one_notification_for_a_run(setup: MonitorSetup) -> None:
    for number in range(20):
        setup.update_run("completed" if number % 2 else "stopped", run=f"run-{number}")
    setup.now += timedelta(minutes=1)

    with ThreadPoolExecutor(4) as pool:
        for round_ in [pool.submit(setup.add_monitor().run_once) for _ in range(4)]:
            round_.result()

    subjects = [notification.subject for notification in setup.list_notifications("run.reconciled")]
    assert sorted(subjects) == sorted({f"run-{number}" for number in range(20)})
    assert len(setup.list_notifications("run.stopped")) == 10


def test_the_notification_of_a_stop_names_its_origin(setup: MonitorSetup) -> None:
    setup.update_run("stopped", run="theirs")
    refused = RunUpdate("ours", "job", "a", "e", NOW, "", "refused", NOW, 2, None, NOW, "sandbox")
    setup.runs.upsert(refused)

    setup.advance(minutes=1)

    origins = {
        notification.subject: (notification.payload["by"], notification.payload["reason"])
        for notification in setup.list_notifications("run.stopped")
    }
    assert origins == {"theirs": ("truto", "Truto says so"), "ours": ("refusal", "sandbox")}
    assert [notification.subject for notification in setup.list_notifications("run.reconciled")] == ["theirs"]


def test_a_stalled_run_is_notified_once_until_it_continues(setup: MonitorSetup) -> None:
    setup.update_run("running")
    setup.advance(minutes=10)
    assert setup.list_notifications() == []

    setup.advance(minutes=6)
    setup.advance(minutes=6)
    assert [notification.payload["silent_s"] for notification in setup.list_notifications("run.stalled")] == [
        16 * 60
    ]

    setup.settle(setup.receive())
    setup.advance(minutes=1)
    setup.advance(minutes=20)
    assert len(setup.list_notifications("run.stalled")) == 2


@pytest.mark.parametrize("status", ["rate_limited", ""])
def test_a_rate_limited_or_unannounced_run_does_not_stall(setup: MonitorSetup, status: str) -> None:
    setup.settle(setup.receive())
    if status:
        setup.update_run(status)

    setup.advance(hours=5)

    assert setup.list_notifications() == []
    assert not setup.get_run().reconciled_at


def test_a_run_without_an_end_is_abandoned_after_a_day_until_its_end_arrives(
    setup: MonitorSetup,
) -> None:
    setup.update_run("running", stats=STATS)
    setup.advance(hours=25)
    assert list(setup.runs.list_unreconciled()) == []

    setup.update_run("completed", stats={})
    setup.advance(minutes=1)

    assert [notification.kind for notification in setup.list_notifications()] == [
        "run.stalled",
        "run.reconciled",
    ]


def test_a_run_that_cannot_be_checked_does_not_block_the_others(setup: MonitorSetup, store: Database) -> None:
    setup.update_run("completed", run="odd")
    setup.now += timedelta(seconds=1)
    setup.update_run("completed", run="sound")
    with store.engine.begin() as connection:
        connection.execute(update(runs).where(runs.c.sync_job_run_id == "odd").values(run="{"))

    setup.advance(minutes=1)

    assert [notification.subject for notification in setup.list_notifications("run.reconciled")] == ["sound"]


@pytest.mark.parametrize(
    ("limit", "landed", "reason"),
    [
        (StopLimits(record_errors=4), {"errors": 5}, "5 record errors of * *, more than 4"),
        (StopLimits(records=2), {"records": 3}, "3 records of * *, more than 2"),
        (
            StopLimits(dead_share=0.1),
            {"records": 200, "dead": 30},
            "15% of the records of * * are dead, more than 10%",
        ),
        (StopLimits(idle_minutes=2), {}, "no progress for 3 minutes, more than 2"),
    ],
)
def test_without_a_token_a_run_beyond_a_limit_is_notified_and_not_stopped(
    open_setup: Open, limit: StopLimits, landed: dict[str, Any], reason: str
) -> None:
    setup = open_setup(stop_at=limit)
    setup.update_run("running")
    setup.settle(setup.receive(), **landed)

    setup.advance(minutes=3)
    setup.advance(minutes=6)

    [notification] = setup.list_notifications("run.stopped")
    assert (notification.payload["reason"], notification.payload["by"], notification.payload["is_asked"]) == (
        reason,
        "limit",
        False,
    )
    assert setup.get_run().stop_reason == reason
    assert setup.get_run().stop_sent_at is None


@pytest.mark.parametrize(
    ("limit", "landed"),
    [
        (StopLimits(record_errors=5), {"errors": 5}),
        (StopLimits(records=3), {"records": 3}),
        (StopLimits(dead_share=0.1), {"records": 50, "dead": 30}),
        (StopLimits(idle_minutes=4), {}),
        (StopLimits(), {"records": 200, "dead": 200, "errors": 99}),
    ],
)
def test_a_run_within_its_limits_continues(
    open_setup: Open, limit: StopLimits, landed: dict[str, Any]
) -> None:
    setup = open_setup(stop_at=limit)
    setup.update_run("running")
    setup.settle(setup.receive(), **landed)

    setup.advance(minutes=3)

    assert setup.list_notifications() == []
    assert setup.get_run().stop_reason == ""


@pytest.fixture
def finished() -> Iterator[FinishedRuns]:
    with running_receiver() as to, finished_runs(to, lost=0.3, endless=True) as finished:
        yield finished


def test_a_run_beyond_a_limit_is_stopped_once_at_truto(finished: FinishedRuns, open_setup: Open) -> None:
    setup = open_setup(finished, StopLimits(records=2))
    setup.update_run("running", run=finished.run_id)
    setup.settle(setup.receive(run=finished.run_id), run=finished.run_id)

    for _ in range(3):
        setup.advance(seconds=30)

    assert [notification.payload["is_asked"] for notification in setup.list_notifications("run.stopped")] == [
        True
    ]
    assert setup.get_run(finished.run_id).stop_sent_at
    assert finished.requests.count(("DELETE", f"/sync-job-run/{finished.run_id}")) == 1


def test_a_stop_that_an_operator_requests_is_sent_to_truto_once(
    finished: FinishedRuns, open_setup: Open
) -> None:
    setup = open_setup(finished)
    setup.update_run("running", run=finished.run_id)
    assert request_stop(setup.runs, finished.run_id)
    assert not request_stop(setup.runs, finished.run_id)
    second = setup.add_monitor()

    for _ in range(3):
        setup.advance(seconds=5)
        second.run_once()

    [notification] = setup.list_notifications("run.stopped")
    assert (notification.payload["by"], notification.payload["is_asked"]) == ("operator", True)
    assert find_stop(setup.get_run(finished.run_id), [notification]).state == "sent"
    assert finished.requests.count(("DELETE", f"/sync-job-run/{finished.run_id}")) == 1


def test_a_failed_stop_names_the_error_and_is_sent_again(finished: FinishedRuns, open_setup: Open) -> None:
    setup = open_setup(finished)
    setup.update_run("running", run=finished.run_id)
    request_stop(setup.runs, finished.run_id)
    finished.faults.append(409)

    setup.advance(seconds=5)
    failed = find_stop(setup.get_run(finished.run_id), setup.list_notifications("run.stopped"))
    setup.advance(minutes=5)
    sent = find_stop(setup.get_run(finished.run_id), setup.list_notifications("run.stopped"))

    assert failed.state == "failed"
    assert "answered 409" in failed.error
    assert sent.state == "sent"


def test_without_a_token_a_requested_stop_names_the_setting(setup: MonitorSetup) -> None:
    setup.update_run("running")
    request_stop(setup.runs, "run")

    setup.advance(seconds=5)

    stop = find_stop(setup.get_run(), setup.list_notifications("run.stopped"))
    assert (stop.state, stop.reason) == ("failed", "requested by an operator")
    assert "TRUTO_API_TOKEN is not set" in stop.error


def test_a_stop_of_a_run_that_was_silent_for_a_day_is_tried(setup: MonitorSetup) -> None:
    setup.update_run("running")
    setup.advance(days=2)
    assert setup.get_run().reconciled_at

    request_stop(setup.runs, "run")
    setup.advance(seconds=5)

    assert [item.payload["by"] for item in setup.list_notifications("run.stopped")] == ["operator"]


def test_a_stop_that_truto_refused_is_notified_and_retried(finished: FinishedRuns, open_setup: Open) -> None:
    setup = open_setup(finished, StopLimits(records=2))
    setup.update_run("running", run=finished.run_id)
    setup.settle(setup.receive(run=finished.run_id), run=finished.run_id)
    finished.faults.append(409)

    setup.advance(seconds=30)
    setup.advance(seconds=30)
    setup.advance(minutes=5)

    assert [notification.payload["is_asked"] for notification in setup.list_notifications("run.stopped")] == [
        False,
        True,
    ]


def test_the_end_of_a_stalled_run_is_read_from_truto(finished: FinishedRuns, open_setup: Open) -> None:
    setup = open_setup(finished)
    setup.update_run("running", run=finished.run_id)

    setup.advance(minutes=16)
    setup.advance(seconds=5)

    assert setup.get_run(finished.run_id).status == "completed"
    [notification] = setup.list_notifications("run.incomplete")
    fetched = {
        (line["resource"], line["method"]): line["missing"] for line in notification.payload["resources"]
    }
    assert fetched == dict(finished.report.fetched)


def test_during_an_outage_of_truto_runs_are_reconciled_from_the_store(
    finished: FinishedRuns, open_setup: Open
) -> None:
    setup = open_setup(finished, TRUTO_API_URL="http://127.0.0.1:1")
    for run in ("first", "second"):
        setup.update_run("completed", run=run)

    setup.advance(minutes=1)

    assert [
        notification.payload["verdict"] for notification in setup.list_notifications("run.reconciled")
    ] == ["unknown"] * 2


@pytest.mark.parametrize(("reactivate", "is_on"), [("0", False), ("1", True)])
def test_an_inactive_webhook_is_notified_and_reactivated_if_the_setting_says_so(
    finished: FinishedRuns, open_setup: Open, reactivate: str, *, is_on: bool
) -> None:
    secret = f"{finished.webhook_id}=secret"
    setup = open_setup(finished, REACTIVATE_WEBHOOK=reactivate, TRUTO_WEBHOOK_SECRET=secret)
    finished.request("PATCH", f"/webhook/{finished.webhook_id}", json={"is_active": False})

    for _ in range(3):
        setup.advance(minutes=6)

    [notification] = setup.list_notifications("webhook.inactive")
    assert notification.payload == {"webhook_id": finished.webhook_id, "is_reactivated": is_on}
    assert finished.api.get_webhook(finished.webhook_id).is_active is is_on


def open_breaker(
    setup: MonitorSetup, sink: str, reason: str = "sink_unavailable", *, scope: str = "", message: str = ""
) -> None:
    state = SinkState(sink, scope, retry_at=setup.now, failures=1, reason=reason, message=message)
    SinkStates(setup.store).record_failure(state, now=setup.now)


def hold_delivery(setup: MonitorSetup, name: str, sink: str, scope: str = "") -> None:
    delivery = setup.receive(name=name)
    outcome = SinkOutcome(delivery, sink, SinkOutcomeState.FAILING, 0, 0, "sink_unavailable", "", setup.now)
    held = replace(outcome, held_scope=scope, held_received_at=setup.now)
    change = StateChange(delivery, DeliveryState.PENDING, 0, "sink_unavailable", due_at=setup.now + HELD_FOR)
    DeliveryResults(setup.store).save([DeliveryResult(change, outcomes=[held])], now=setup.now)


def test_every_long_outage_of_a_sink_is_notified_once_and_so_is_its_end(setup: MonitorSetup) -> None:
    for name in ("first", "second"):
        open_breaker(setup, "lake")
        hold_delivery(setup, name, "lake")
        setup.advance(seconds=40)
        before = len(setup.list_notifications("sink.failing"))
        setup.advance(minutes=2)
        setup.advance(minutes=2)
        assert len(setup.list_notifications("sink.failing")) == before + 1
        SinkStates(setup.store).close(SinkState("lake"))
        setup.advance(minutes=1)

    assert [
        notification.payload["deliveries"] for notification in setup.list_notifications("sink.failing")
    ] == [1, 2]
    recovered = [notification.payload for notification in setup.list_notifications("sink.recovered")]
    assert [(payload["sink"], payload["failing_s"], payload["deliveries"]) for payload in recovered] == [
        ("lake", 340, 1),
        ("lake", 340, 2),
    ]


def test_a_short_outage_of_a_sink_is_not_notified(setup: MonitorSetup) -> None:
    open_breaker(setup, "lake")
    setup.advance(seconds=40)
    SinkStates(setup.store).close(SinkState("lake"))
    setup.advance(minutes=2)

    assert setup.list_notifications("sink.failing") == setup.list_notifications("sink.recovered") == []


def test_held_deliveries_are_no_backlog(setup: MonitorSetup) -> None:
    hold_delivery(setup, "held", "lake")
    setup.advance(hours=1)
    assert setup.list_notifications("delivery.delayed") == []

    setup.receive(name="waiting")
    setup.advance(hours=1)

    [notification] = setup.list_notifications("delivery.delayed")
    assert notification.payload["since"] == (setup.now - timedelta(hours=1)).isoformat()


def test_a_wrong_set_up_of_a_sink_is_notified_at_once_with_its_message(setup: MonitorSetup) -> None:
    message = "table crm_contacts: column zip has the type integer instead of text"
    open_breaker(setup, "main", message="away")
    open_breaker(setup, "main", "sink_set_up", scope="crm/contacts", message=message)
    for number, scope in enumerate(("", "", "crm/contacts")):
        hold_delivery(setup, str(number), "main", scope)

    setup.monitor.run_once()

    [notification] = setup.list_notifications("sink.failing")
    assert notification.payload == {
        "sink": "main",
        "reason": "sink_set_up",
        "message": message,
        "since": notification.payload["since"],
        "deliveries": 3,
        "is_exact": True,
    }


def test_a_worker_logs_the_tables_that_do_not_fit_once(empty_url: str) -> None:
    sink = SqlSinkConfig(type="sql", url=empty_url)
    route = Route(resource="theirs", sinks=("main",))
    engine = open_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (id integer)")
    engine.dispose()
    monitor = SetUpMonitor(Routes(sinks={"main": sink}, routes=(route,)))

    with capture_logs() as logs:
        monitor.run_once()
        monitor.run_once()

    assert [(log["event"], log["sink"], log["log_level"]) for log in logs] == [
        ("sink.misconfigured", "main", "warning")
    ]
    assert logs[0]["problem"] == "table theirs exists and was not created by this sink"
    assert "set another `table`" in logs[0]["correction"]


def test_notifications_of_the_monitor_can_be_fanned_out(setup: MonitorSetup) -> None:
    setup.update_run("completed", stats=STATS)
    setup.advance(minutes=3)

    assert NotificationOutbox(setup.store).fan_out([], now=setup.now, limit=10) == 2


def test_records_that_arrive_during_a_request_to_truto_are_not_missing(
    finished: FinishedRuns, open_setup: Open
) -> None:
    setup = open_setup(finished)
    setup.update_run("completed", stats={"crm/contacts": {"list": {"fetched": 6, "persisted": 6}}})
    setup.settle(setup.receive(name="1"))
    setup.now += timedelta(minutes=3)
    # Truto refuses the request; meanwhile the other records arrive.
    finished.faults.append(403)
    finished.during_next_request(lambda: setup.settle(setup.receive(name="2")))
    setup.monitor.run_once()

    setup.advance(minutes=1)

    [notification] = setup.list_notifications("run.reconciled", "run.incomplete")
    assert notification.payload["verdict"] == "complete"


def test_dead_records_make_a_run_incomplete(setup: MonitorSetup) -> None:
    setup.settle(setup.receive(), dead=1)
    setup.update_run("completed", stats=STATS)

    setup.advance(minutes=1)

    assert [
        notification.payload["resources"][0]["dead"]
        for notification in setup.list_notifications("run.incomplete")
    ] == [1]


def count_responses(setup: MonitorSetup, number: int, status: str = "unauthorized", cause: str = "") -> None:
    ResponseCounts(setup.store).add({(status, cause): number}, now=setup.now)


def list_open(setup: MonitorSetup, kind: str) -> list[str]:
    return [notification.subject for notification in Notifications(setup.store).list_open(kind)]


def test_refused_signatures_are_notified_once_until_others_are_accepted(setup: MonitorSetup) -> None:
    count_responses(setup, 1, "accepted")
    count_responses(setup, 500, cause="missing")
    count_responses(setup, 500, cause="malformed")
    count_responses(setup, 2, cause="wrong")
    setup.advance(seconds=5)
    assert setup.list_notifications("webhook.unauthorized") == []

    count_responses(setup, 2, cause="wrong")
    for _ in range(3):
        setup.advance(seconds=5)
    [notification] = setup.list_notifications("webhook.unauthorized")
    assert (notification.payload["requests"], notification.payload["causes"]) == (4, {"wrong": 4})
    assert notification.payload["last_accepted_at"]

    # Silence is no proof: the sender may have given up.
    setup.advance(hours=2)
    assert list_open(setup, "webhook.unauthorized")
    count_responses(setup, 1, "accepted")
    setup.advance(minutes=1)
    assert not list_open(setup, "webhook.unauthorized")

    count_responses(setup, 3, cause="other_webhook")
    setup.advance(minutes=1)
    assert len(setup.list_notifications("webhook.unauthorized")) == 2


def test_a_forged_request_beside_accepted_ones_ends_by_itself(setup: MonitorSetup) -> None:
    count_responses(setup, 3, cause="wrong")
    setup.advance(seconds=5)
    count_responses(setup, 1, "accepted")
    setup.advance(minutes=1)
    assert list_open(setup, "webhook.unauthorized")

    setup.advance(minutes=30)
    assert not list_open(setup, "webhook.unauthorized")


@pytest.mark.parametrize("status", ["too_large", "unavailable", "failed"])
def test_requests_that_are_not_stored_are_notified(setup: MonitorSetup, status: str) -> None:
    count_responses(setup, 4, status)

    setup.advance(seconds=5)
    setup.advance(minutes=30)

    [notification] = setup.list_notifications("webhook.rejected")
    assert notification.payload == {"status": status, "requests": 4}
    assert not list_open(setup, "webhook.rejected")


def test_failed_deliveries_are_notified_by_reason_until_they_are_discarded(setup: MonitorSetup) -> None:
    for name, state, reason in (
        ("1", DeliveryState.DEAD, "internal_error"),
        ("2", DeliveryState.UNROUTED, "no_route"),
        ("3", DeliveryState.UNROUTED, "no_route"),
    ):
        change = StateChange(setup.receive(name=name), state, 0, reason, due_at=setup.now)
        DeliveryResults(setup.store).save([DeliveryResult(change)], now=setup.now)

    setup.advance(minutes=2)
    setup.advance(minutes=2)

    numbers = {
        notification.payload["reason"]: notification.payload["deliveries"]
        for notification in setup.list_notifications("delivery.failed")
    }
    assert numbers == {"internal_error": 1, "no_route": 2}
    assert discard_all(setup.store, DeliveryFilter(), reason="a test", now=setup.now) == 3
    setup.advance(minutes=2)
    assert not list_open(setup, "delivery.failed")


def test_a_delivery_that_is_pending_for_long_is_notified_once(setup: MonitorSetup) -> None:
    delivery = setup.receive()

    setup.advance(minutes=14)
    assert not list_open(setup, "delivery.delayed")
    setup.advance(minutes=2)
    setup.advance(minutes=2)
    assert len(setup.list_notifications("delivery.delayed")) == 1

    setup.settle(delivery)
    setup.advance(seconds=5)
    assert not list_open(setup, "delivery.delayed")


def test_unreadable_entries_of_the_spool_are_notified(setup: MonitorSetup, redis: Redis) -> None:
    redis.xadd(setup.spool.unreadable_key, {"header": "x"})
    setup.advance(seconds=5)
    assert list_open(setup, "spool.unreadable") == [setup.spool.unreadable_key]

    redis.delete(setup.spool.unreadable_key)
    setup.advance(seconds=5)
    assert not list_open(setup, "spool.unreadable")


def spool_delivery(setup: MonitorSetup) -> None:
    setup.spool.put(IncomingDelivery(b"{}", b"x" * 32, setup.now))


def test_a_spool_that_is_in_use_for_a_minute_is_notified_until_it_is_empty(
    setup: MonitorSetup, redis: Redis
) -> None:
    spool_delivery(setup)
    setup.advance(seconds=5)
    since = setup.now
    setup.advance(seconds=59)
    assert not list_open(setup, "spool.in_use")

    spool_delivery(setup)
    setup.advance(seconds=5)
    setup.advance(seconds=5)
    [notification] = setup.list_notifications("spool.in_use")
    assert notification.payload == {"since": since.isoformat(), "deliveries": 2}
    assert list_open(setup, "spool.in_use") == ["spool"]

    redis.delete(setup.spool.key)
    setup.advance(seconds=5)
    assert not list_open(setup, "spool.in_use")


def test_a_spool_that_was_in_use_while_the_database_was_away_is_notified_once_by_all_monitors(
    setup: MonitorSetup, redis: Redis
) -> None:
    monitors = [setup.monitor, setup.add_monitor()]
    spool_delivery(setup)
    with setup.store.transaction() as connection:
        connection.execute(sql_text("ALTER TABLE rapidbridge_notifications RENAME TO away"))
    for _ in range(3):
        setup.now += timedelta(seconds=31)
        for monitor in monitors:
            monitor.run_once()

    with setup.store.transaction() as connection:
        connection.execute(sql_text("ALTER TABLE away RENAME TO rapidbridge_notifications"))
    redis.delete(setup.spool.key)
    for _ in range(3):
        for monitor in monitors:
            setup.now += timedelta(seconds=2)
            monitor.run_once()

    assert len(setup.list_notifications("spool.in_use")) == 1
    assert not list_open(setup, "spool.in_use")


def test_a_short_use_of_the_spool_is_not_notified(setup: MonitorSetup, redis: Redis) -> None:
    for _ in range(5):
        spool_delivery(setup)
        setup.advance(seconds=50)
        redis.delete(setup.spool.key)
        setup.advance(seconds=50)

    assert not setup.list_notifications("spool.in_use")


def test_missing_workers_are_notified_after_a_minute_until_one_is_back(setup: MonitorSetup) -> None:
    setup.advance(seconds=5)
    # The heartbeat counts for a minute.
    setup.now += timedelta(seconds=59)
    setup.monitor.run_once()
    seen_at = setup.now
    setup.now += timedelta(seconds=60)
    setup.monitor.run_once()
    assert not list_open(setup, "workers.missing")

    for _ in range(3):
        setup.now += timedelta(seconds=5)
        setup.monitor.run_once()
    [notification] = setup.list_notifications("workers.missing")
    assert notification.payload == {"since": seen_at.isoformat(), "deliveries": 0, "is_exact": True}

    setup.advance(seconds=5)
    assert not list_open(setup, "workers.missing")


def test_monitors_of_two_configurations_notify_once_for_each_worker(setup: MonitorSetup) -> None:
    registry = WorkerRegistry(setup.store)
    other_routes = setup.config.routes.model_copy(update={"routes": (Route(sinks=("main",), table="other"),)})
    other_config = replace(setup.config, routes=other_routes)
    other = Monitor(setup.store, other_config, setup.spool, clock=lambda: setup.now)
    workers = [
        WorkerRecord(name, setup.now, config.delivery_config.to_json(), config.delivery_config.digest)
        for name, config in (("host:aa", setup.config), ("host:bb", other_config))
    ]

    for minutes in (1, 6, 6, 6):
        setup.now += timedelta(minutes=minutes)
        for worker in workers:
            registry.record_heartbeat(worker, now=setup.now)
        setup.monitor.run_once()
        assert list_open(setup, "worker.outdated") == [] or minutes > 1
        other.run_once()
    other.close()
    registry.remove("host:bb")
    registry.remove("host:aa")
    setup.advance(seconds=5)

    subjects = [notification.subject for notification in setup.list_notifications("worker.outdated")]
    assert sorted(subjects) == ["host:aa", "host:bb"]
    assert not list_open(setup, "worker.outdated")


class FailingTask(PeriodicTask):
    """Fails until it is repaired."""

    def __init__(self) -> None:
        super().__init__("failing", interval_s=1.0)
        self.is_broken = True

    def run_once(self) -> None:
        self.run_step("step", self._fail)

    def _fail(self) -> None:
        if self.is_broken:
            raise StoreUnavailable("away")


def test_a_task_that_fails_for_minutes_is_notified_until_it_succeeds(
    setup: MonitorSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = FailingTask()
    monitor = Monitor(setup.store, setup.config, setup.spool, tasks=[task], clock=lambda: setup.now)
    task.run_once()
    monitor.run_once()
    assert not list_open(setup, "task.failing")

    monkeypatch.setattr("workers.background.condition_monitor._FAILING_AFTER_S", 0.0)
    monitor.run_once()
    [notification] = setup.list_notifications("task.failing")
    assert notification.payload == {"task": "failing step", "error": "away"}

    task.is_broken = False
    task.run_once()
    monitor.run_once()
    monitor.close()
    assert not list_open(setup, "task.failing")


def test_the_notification_of_a_task_ends_with_its_process(setup: MonitorSetup) -> None:
    Notifications(setup.store).open(Notification("task.failing", "gone step", "c", setup.now, {}))

    setup.add_monitor().run_once()

    assert not list_open(setup, "task.failing")


class Disks:
    """The monitor of a machine, with disks of any free space: no real disk can be filled here."""

    def __init__(self, setup: MonitorSetup, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._setup, self._patch = setup, monkeypatch
        sink = FilesSinkConfig(type="files", url=f"file://{folder}")
        self._config = replace(setup.config, routes=Routes(sinks={"lake": sink}))

    def check(self, host: str, free_gib: float) -> list[str]:
        """Run the monitor of a machine; return the open notifications of the sink."""
        self._patch.setattr("socket.gethostname", lambda: host)
        free_bytes = int(free_gib * 1024**3)
        self._patch.setattr("workers.background.condition_monitor.read_free_bytes", lambda _: free_bytes)
        setup = self._setup
        setup.now += timedelta(minutes=1)
        monitor = Monitor(setup.store, self._config, setup.spool, clock=lambda: setup.now)
        monitor.run_once()
        monitor.close()
        return [subject for subject in list_open(setup, "disk.low") if subject.startswith("sink lake")]


@pytest.fixture
def disks(setup: MonitorSetup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Disks:
    return Disks(setup, monkeypatch, tmp_path)


def test_a_disk_is_notified_each_time_it_becomes_almost_full(setup: MonitorSetup, disks: Disks) -> None:
    assert disks.check("a", 3) == []

    assert disks.check("a", 1) == ["sink lake on a"]
    # Just above the limit of 2 GiB.
    assert disks.check("a", 2.1) == ["sink lake on a"]
    assert disks.check("a", 2.5) == []
    assert disks.check("a", 2.1) == []
    assert disks.check("a", 1) == ["sink lake on a"]

    lake = [n for n in setup.list_notifications("disk.low") if n.payload["place"] == "sink lake"]
    assert len(lake) == 2


def test_a_machine_keeps_the_notifications_of_another_ones_disks(setup: MonitorSetup, disks: Disks) -> None:
    for name in ("a:token:1", "b:token:1"):
        WorkerRegistry(setup.store).record_heartbeat(WorkerRecord(name, setup.now, "", ""), now=setup.now)
    disks.check("a", 1)

    assert disks.check("b", 3) == ["sink lake on a"]
    assert disks.check("b", 1) == ["sink lake on a", "sink lake on b"]
    assert disks.check("a", 3) == ["sink lake on b"]


def test_a_monitor_keeps_the_notification_of_a_sink_that_its_routes_lack(
    setup: MonitorSetup, disks: Disks
) -> None:
    host = socket.gethostname()
    setup.monitor.run_once()
    disks.check(host, 1)

    setup.advance(minutes=1)

    assert f"sink lake on {host}" in list_open(setup, "disk.low")


def test_the_notification_of_a_removed_sink_ends_at_the_start(setup: MonitorSetup, disks: Disks) -> None:
    host = socket.gethostname()
    disks.check(host, 1)

    setup.add_monitor().run_once()

    assert f"sink lake on {host}" not in list_open(setup, "disk.low")


def test_the_disk_of_a_machine_without_workers_is_not_notified_for_ever(disks: Disks) -> None:
    assert disks.check("gone", 1) == ["sink lake on gone"]

    assert disks.check("b", 3) == []
