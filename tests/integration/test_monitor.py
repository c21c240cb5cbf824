"""The overseer: runs that end, stall, are lost or must be stopped; sinks and webhooks that are off."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import select, update

from app.config.load import Config
from app.config.routes import Route, Routes, SqlSinkConfig, StopLimits
from app.config.settings import read_settings
from app.database.engine import Database
from app.redis.spool import Spool
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
from app.store.notifications import Notification
from app.store.results import DeliveryResults
from app.store.runs import Runs, StoredRun
from app.store.schema import notifications, runs
from app.truto.events import Envelope
from app.truto.runs import status_rank
from tests.integration.test_simulated_api import TOKEN, FinishedRuns, finished_runs
from tests.support.fake_receiver import running_receiver
from workers.background.monitor import Monitor

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
STATS = {"crm/contacts": {"list": {"fetched": 3, "persisted": 3}}}


class MonitorSetup:
    """A store with runs in it, an overseer, and a clock that is moved by hand."""

    def __init__(self, store: Database, redis: Redis, stop_at: StopLimits, settings: dict[str, str]) -> None:
        route = Route(sinks=("main",), stop_at=stop_at)
        routes = Routes(sinks={"main": SqlSinkConfig(type="sql", url="sqlite://")}, routes=(route,))
        self.setup = Config(read_settings(settings), routes)
        self.store, self.spool, self.book = store, Spool(redis), Runs(store)
        self.now = NOW
        self._monitors: list[Monitor] = []
        self.monitor = self.add_monitor()

    def add_monitor(self) -> Monitor:
        self._monitors.append(Monitor(self.store, self.setup, self.spool, clock=lambda: self.now))
        return self._monitors[-1]

    def close(self) -> None:
        for overseer in self._monitors:
            overseer.close()

    def advance(self, **span: float) -> None:
        """Let time pass, then have the overseer look."""
        self.now += timedelta(**span)
        self.monitor.run_once()

    def update_run(self, status: str, *, run: str = "run", stats: Any = None) -> None:
        run_json = json.dumps({"id": run, "status": status, "resource_stats": stats})
        stopped_at = self.now if status == "stopped" else None
        self.book.upsert(
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
        arrival = IncomingDelivery(
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
        return Inbox(self.store).put([arrival])[0].delivery_id

    def settle(
        self, delivery: UUID, *, records: int = 3, dead: int = 0, run: str = "run", errors: int = 0
    ) -> None:
        outcome = SinkOutcome(delivery, "main", SinkOutcomeState.DONE, records - dead, dead, "", "", self.now)
        rows = [
            StoredRecordError(delivery, n, run, "crm/contacts", "list", 502, "", "{}") for n in range(errors)
        ]
        verdict = StateChange(delivery, DeliveryState.SETTLED, records, "", due_at=self.now)
        seen = RunUpdate(run, "job", "account", "env", self.now)
        DeliveryResults(self.store).save([DeliveryResult(verdict, seen, [outcome], (), rows)], now=self.now)

    def get_run(self, run: str = "run") -> StoredRun:
        stored = self.book.get(run)
        assert stored
        return stored

    def list_notifications(self, *kinds: str) -> list[Notification]:
        with self.store.engine.connect() as connection:
            rows = (
                connection.execute(select(notifications).order_by(notifications.c.occurred_at))
                .mappings()
                .all()
            )
        all_of = [
            Notification(r["kind"], r["subject"], r["cause"], r["occurred_at"], json.loads(r["payload"]))
            for r in rows
        ]
        return [notice for notice in all_of if not kinds or notice.kind in kinds]


Open = Callable[..., MonitorSetup]
NO_LIMIT = StopLimits()


@pytest.fixture
def open_desk(store: Database, redis: Redis) -> Iterator[Open]:
    """Opens a desk, for the runs of a play where there is one."""
    with ExitStack() as stack:

        def open_desk(
            play: FinishedRuns | None = None, stop_at: StopLimits = NO_LIMIT, **settings: str
        ) -> MonitorSetup:
            of_play = {"TRUTO_API_URL": play.url, "TRUTO_API_TOKEN": TOKEN} if play else {}
            desk = MonitorSetup(store, redis, stop_at, of_play | settings)
            stack.callback(desk.close)
            desk.now = datetime.now(UTC) if play else NOW
            return desk

        yield open_desk


@pytest.fixture
def desk(open_desk: Open) -> MonitorSetup:
    return open_desk()


def test_a_run_is_settled_once_it_has_ended_and_been_quiet(desk: MonitorSetup) -> None:
    desk.settle(desk.receive())
    desk.update_run("completed", stats=STATS)

    desk.advance(seconds=10)
    too_early = desk.list_notifications()
    desk.advance(seconds=30)
    desk.advance(seconds=30)

    assert too_early == []
    [notice] = desk.list_notifications()
    assert (notice.kind, notice.subject) == ("run.settled", "run")
    assert notice.payload["verdict"] == "complete"
    assert notice.payload["resources"] == [
        {
            "resource": "crm/contacts",
            "method": "list",
            "fetched": 3,
            "arrived": 3,
            "written": 3,
            "dead": 0,
            "missing": 0,
        }
    ]
    assert desk.get_run().reconciled_at


def test_a_run_is_not_settled_while_a_batch_waits_or_something_is_spooled(desk: MonitorSetup) -> None:
    waiting = desk.receive()
    desk.update_run("completed", stats=STATS)
    desk.advance(minutes=5)
    assert desk.list_notifications("run.settled") == []

    desk.settle(waiting)
    desk.spool.put(IncomingDelivery(b"{}", b"x" * 32, NOW))
    desk.advance(minutes=5)
    assert desk.list_notifications("run.settled") == []

    desk.spool.drain(lambda _: None)
    desk.advance(minutes=5)
    assert len(desk.list_notifications("run.settled")) == 1


def test_what_is_missing_is_told_and_told_again_when_it_came(desk: MonitorSetup) -> None:
    desk.update_run("completed", stats=STATS)
    desk.advance(minutes=1)
    verdicts = [(notice.kind, notice.payload["verdict"]) for notice in desk.list_notifications()]

    desk.settle(desk.receive())
    desk.advance(minutes=1)

    assert sorted(verdicts) == [("run.incomplete", "incomplete"), ("run.settled", "incomplete")]
    assert [notice.payload["verdict"] for notice in desk.list_notifications("run.settled")] == [
        "incomplete",
        "complete",
    ]


def test_many_overseers_at_once_tell_of_each_run_once(desk: MonitorSetup) -> None:
    for number in range(20):
        desk.update_run("completed" if number % 2 else "stopped", run=f"run-{number}")
    desk.now += timedelta(minutes=1)

    with ThreadPoolExecutor(4) as pool:
        for looking in [pool.submit(desk.add_monitor().run_once) for _ in range(4)]:
            looking.result()

    subjects = [notice.subject for notice in desk.list_notifications("run.settled")]
    assert sorted(subjects) == sorted({f"run-{number}" for number in range(20)})
    assert len(desk.list_notifications("run.stopped")) == 10


def test_a_stop_is_told_with_whose_it_is(desk: MonitorSetup) -> None:
    desk.update_run("stopped", run="theirs")
    refused = RunUpdate("ours", "job", "a", "e", NOW, "", "refused", NOW, 2, None, NOW, "sandbox")
    desk.book.upsert(refused)

    desk.advance(minutes=1)

    told = {
        notice.subject: (notice.payload["by"], notice.payload["reason"])
        for notice in desk.list_notifications("run.stopped")
    }
    assert told == {"theirs": ("truto", "Truto says so"), "ours": ("refusal", "sandbox")}
    assert [notice.subject for notice in desk.list_notifications("run.settled")] == ["theirs"]


def test_a_run_that_stalls_is_told_once_until_it_goes_on(desk: MonitorSetup) -> None:
    desk.update_run("running")
    desk.advance(minutes=10)
    assert desk.list_notifications() == []

    desk.advance(minutes=6)
    desk.advance(minutes=6)
    assert [notice.payload["silent_s"] for notice in desk.list_notifications("run.stalled")] == [16 * 60]

    desk.settle(desk.receive())
    desk.advance(minutes=1)
    desk.advance(minutes=20)
    assert len(desk.list_notifications("run.stalled")) == 2


@pytest.mark.parametrize("status", ["rate_limited", ""])
def test_a_run_that_waits_or_was_never_announced_does_not_stall(desk: MonitorSetup, status: str) -> None:
    desk.settle(desk.receive())
    if status:
        desk.update_run(status)

    desk.advance(hours=5)

    assert desk.list_notifications() == []
    assert not desk.get_run().reconciled_at


def test_a_run_that_never_ends_is_given_up_after_a_day_and_comes_back_with_its_end(
    desk: MonitorSetup,
) -> None:
    desk.update_run("running", stats=STATS)
    desk.advance(hours=25)
    assert list(desk.book.list_unreconciled()) == []

    desk.update_run("completed", stats={})
    desk.advance(minutes=1)

    assert [notice.kind for notice in desk.list_notifications()] == ["run.stalled", "run.settled"]


def test_one_odd_run_does_not_keep_the_others_from_being_looked_at(
    desk: MonitorSetup, store: Database
) -> None:
    desk.update_run("completed", run="odd")
    desk.now += timedelta(seconds=1)
    desk.update_run("completed", run="sound")
    with store.engine.begin() as connection:
        connection.execute(update(runs).where(runs.c.sync_job_run_id == "odd").values(run="{"))

    desk.advance(minutes=1)

    assert [notice.subject for notice in desk.list_notifications("run.settled")] == ["sound"]


@pytest.mark.parametrize(
    ("limit", "landed", "cause"),
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
def test_a_run_beyond_a_limit_is_reported_where_there_is_no_token(
    open_desk: Open, limit: StopLimits, landed: dict[str, Any], cause: str
) -> None:
    desk = open_desk(stop_at=limit)
    desk.update_run("running")
    desk.settle(desk.receive(), **landed)

    desk.advance(minutes=3)
    desk.advance(minutes=6)

    [notice] = desk.list_notifications("run.stopped")
    assert (notice.payload["reason"], notice.payload["by"], notice.payload["is_asked"]) == (
        cause,
        "limit",
        False,
    )
    assert desk.get_run().stop_reason == cause
    assert desk.get_run().stop_sent_at is None


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
def test_a_run_within_its_limits_goes_on(open_desk: Open, limit: StopLimits, landed: dict[str, Any]) -> None:
    desk = open_desk(stop_at=limit)
    desk.update_run("running")
    desk.settle(desk.receive(), **landed)

    desk.advance(minutes=3)

    assert desk.list_notifications() == []
    assert desk.get_run().stop_reason == ""


@pytest.fixture
def play() -> Iterator[FinishedRuns]:
    with running_receiver() as to, finished_runs(to, lost=0.3, endless=True) as made:
        yield made


def test_truto_is_asked_to_stop_a_run_once(play: FinishedRuns, open_desk: Open) -> None:
    desk = open_desk(play, StopLimits(records=2))
    desk.update_run("running", run=play.run_id)
    desk.settle(desk.receive(run=play.run_id), run=play.run_id)

    for _ in range(3):
        desk.advance(seconds=30)

    assert [notice.payload["is_asked"] for notice in desk.list_notifications("run.stopped")] == [True]
    assert desk.get_run(play.run_id).stop_sent_at
    assert play.requests.count(("DELETE", f"/sync-job-run/{play.run_id}")) == 1


def test_a_stop_that_truto_did_not_take_is_told_and_tried_again(play: FinishedRuns, open_desk: Open) -> None:
    desk = open_desk(play, StopLimits(records=2))
    desk.update_run("running", run=play.run_id)
    desk.settle(desk.receive(run=play.run_id), run=play.run_id)
    play.faults.append(409)

    desk.advance(seconds=30)
    desk.advance(seconds=30)
    desk.advance(minutes=5)

    assert [notice.payload["is_asked"] for notice in desk.list_notifications("run.stopped")] == [False, True]


def test_the_end_that_no_event_told_is_asked_for(play: FinishedRuns, open_desk: Open) -> None:
    desk = open_desk(play)
    desk.update_run("running", run=play.run_id)

    desk.advance(minutes=16)
    desk.advance(seconds=5)

    assert desk.get_run(play.run_id).status == "completed"
    [notice] = desk.list_notifications("run.incomplete")
    fetched = {(line["resource"], line["method"]): line["missing"] for line in notice.payload["resources"]}
    assert fetched == dict(play.report.fetched)


def test_while_truto_is_away_runs_are_settled_with_what_is_known(play: FinishedRuns, open_desk: Open) -> None:
    desk = open_desk(play, TRUTO_API_URL="http://127.0.0.1:1")
    for run in ("first", "second"):
        desk.update_run("completed", run=run)

    desk.advance(minutes=1)

    assert [notice.payload["verdict"] for notice in desk.list_notifications("run.settled")] == ["unknown"] * 2


@pytest.mark.parametrize(("reactivate", "is_on"), [("0", False), ("1", True)])
def test_a_webhook_that_was_switched_off_is_told_and_switched_on_where_that_is_set(
    play: FinishedRuns, open_desk: Open, reactivate: str, *, is_on: bool
) -> None:
    secret = f"{play.webhook_id}=secret"
    desk = open_desk(play, REACTIVATE_WEBHOOK=reactivate, TRUTO_WEBHOOK_SECRET=secret)
    play.request("PATCH", f"/webhook/{play.webhook_id}", json={"is_active": False})

    for _ in range(3):
        desk.advance(minutes=6)

    [notice] = desk.list_notifications("webhook.inactive")
    assert notice.payload == {"webhook_id": play.webhook_id, "is_reactivated": is_on}
    assert play.api.get_webhook(play.webhook_id).is_active is is_on


def test_a_sink_that_takes_nothing_for_minutes_is_told_once_for_each_time(desk: MonitorSetup) -> None:
    for name in ("first", "second"):
        delivery = desk.receive(name=name)
        failing = SinkOutcome(
            delivery, "lake", SinkOutcomeState.FAILING, 0, 0, "sink_unavailable", "away", desk.now
        )
        again = StateChange(delivery, DeliveryState.PENDING, 0, "sink_unavailable", due_at=desk.now)
        DeliveryResults(desk.store).save([DeliveryResult(again, outcomes=[failing])], now=desk.now)
        desk.advance(minutes=4)
        before = len(desk.list_notifications("sink.failing"))
        desk.advance(minutes=2)
        desk.advance(minutes=2)
        assert len(desk.list_notifications("sink.failing")) == before + 1
        done = SinkOutcome(delivery, "lake", SinkOutcomeState.DONE, 3, 0, "", "", desk.now)
        settled = StateChange(delivery, DeliveryState.SETTLED, 3, "", due_at=desk.now)
        DeliveryResults(desk.store).save([DeliveryResult(settled, outcomes=[done])], now=desk.now)
        desk.advance(minutes=1)

    assert [notice.payload["deliveries"] for notice in desk.list_notifications("sink.failing")] == [1, 1]
    assert desk.list_notifications("sink.failing")[0].payload["sink"] == "lake"


def test_all_that_is_told_can_be_posted(desk: MonitorSetup) -> None:
    desk.update_run("completed", stats=STATS)
    desk.advance(minutes=1)

    assert NotificationOutbox(desk.store).fan_out([], now=desk.now, limit=10) == 2


def test_what_comes_while_truto_is_asked_is_not_told_as_missing(play: FinishedRuns, open_desk: Open) -> None:
    desk = open_desk(play)
    desk.update_run("completed", stats={"crm/contacts": {"list": {"fetched": 6, "persisted": 6}}})
    desk.settle(desk.receive(name="1"))
    desk.now += timedelta(minutes=1)
    # It answers that it may not tell; meanwhile, the rest comes.
    play.faults.append(403)
    play.during_next_request(lambda: desk.settle(desk.receive(name="2")))
    desk.monitor.run_once()

    desk.advance(minutes=1)

    assert [notice.payload["verdict"] for notice in desk.list_notifications()] == ["complete"]


def test_dead_records_are_told(desk: MonitorSetup) -> None:
    desk.settle(desk.receive(), dead=1)
    desk.update_run("completed", stats=STATS)

    desk.advance(minutes=1)

    assert [
        notice.payload["resources"][0]["dead"] for notice in desk.list_notifications("run.incomplete")
    ] == [1]
