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

from app.config.load import Setup
from app.config.routes import Route, Routes, SqlSink, StopAt
from app.config.settings import read_settings
from app.database.engine import Store
from app.redis.spool import Spool
from app.store.facts import Outcome, RecordErrorRow, RunSeen, Settlement
from app.store.inbox import Inbox
from app.store.models import Arrival, Verdict
from app.store.notification_outbox import Outbox
from app.store.notifications import Notice
from app.store.results import Ledger
from app.store.runs import KnownRun, RunBook
from app.store.schema import notices, runs
from app.truto.runs import rank
from tests.integration.test_simulated_api import TOKEN, Played, played
from tests.support.fake_receiver import receiver
from workers.background.monitor import Overseer

NOW = datetime(2026, 11, 25, 10, tzinfo=UTC)
STATS = {"crm/contacts": {"list": {"fetched": 3, "persisted": 3}}}


class Desk:
    """A store with runs in it, an overseer, and a clock that is moved by hand."""

    def __init__(self, store: Store, redis: Redis, stop_at: StopAt, settings: dict[str, str]) -> None:
        route = Route(sinks=("main",), stop_at=stop_at)
        routes = Routes(sinks={"main": SqlSink(type="sql", url="sqlite://")}, routes=(route,))
        self.setup = Setup(read_settings(settings), routes)
        self.store, self.spool, self.book = store, Spool(redis), RunBook(store)
        self.now = NOW
        self._overseers: list[Overseer] = []
        self.overseer = self.another()

    def another(self) -> Overseer:
        self._overseers.append(Overseer(self.store, self.setup, self.spool, clock=lambda: self.now))
        return self._overseers[-1]

    def close(self) -> None:
        for overseer in self._overseers:
            overseer.close()

    def after(self, **span: float) -> None:
        """Let time pass, then have the overseer look."""
        self.now += timedelta(**span)
        self.overseer.look()

    def say(self, status: str, *, run: str = "run", stats: Any = None) -> None:
        told = json.dumps({"id": run, "status": status, "resource_stats": stats})
        stopped_at = self.now if status == "stopped" else None
        self.book.note(
            RunSeen(
                run, "job", "account", "env", self.now, "", status, self.now, rank(status), told, stopped_at
            )
        )

    def receive(self, *, run: str = "run", name: str = "1", event: str = "sync_job_run:record") -> UUID:
        digest = f"{run} {name} {event}".encode().ljust(32)[:32]
        arrival = Arrival(
            b"{}",
            digest,
            self.now,
            "pending",
            event=event,
            event_id=name,
            sync_job_run_id=run,
            integrated_account_id="account",
            resource="crm/contacts",
            method="list",
        )
        return Inbox(self.store).put([arrival])[0].delivery_id

    def land(
        self, delivery: UUID, *, records: int = 3, dead: int = 0, run: str = "run", errors: int = 0
    ) -> None:
        outcome = Outcome(delivery, "main", "done", records - dead, dead, "", "", self.now)
        rows = [
            RecordErrorRow(delivery, n, run, "crm/contacts", "list", 502, "", "{}") for n in range(errors)
        ]
        verdict = Verdict(delivery, "settled", records, "", due_at=self.now)
        seen = RunSeen(run, "job", "account", "env", self.now)
        Ledger(self.store).settle([Settlement(verdict, seen, [outcome], (), rows)], now=self.now)

    def known(self, run: str = "run") -> KnownRun:
        found = self.book.get(run)
        assert found
        return found

    def told(self, *kinds: str) -> list[Notice]:
        with self.store.connect() as connection:
            found = connection.execute(select(notices).order_by(notices.c.at)).mappings().all()
        all_of = [Notice(r["kind"], r["subject"], r["cause"], r["at"], json.loads(r["told"])) for r in found]
        return [notice for notice in all_of if not kinds or notice.kind in kinds]


Open = Callable[..., Desk]
NO_LIMIT = StopAt()


@pytest.fixture
def open_desk(store: Store, redis: Redis) -> Iterator[Open]:
    """Opens a desk, for the runs of a play where there is one."""
    with ExitStack() as stack:

        def open_desk(play: Played | None = None, stop_at: StopAt = NO_LIMIT, **settings: str) -> Desk:
            of_play = {"TRUTO_API_URL": play.url, "TRUTO_API_TOKEN": TOKEN} if play else {}
            desk = Desk(store, redis, stop_at, of_play | settings)
            stack.callback(desk.close)
            desk.now = datetime.now(UTC) if play else NOW
            return desk

        yield open_desk


@pytest.fixture
def desk(open_desk: Open) -> Desk:
    return open_desk()


def test_a_run_is_settled_once_it_has_ended_and_been_quiet(desk: Desk) -> None:
    desk.land(desk.receive())
    desk.say("completed", stats=STATS)

    desk.after(seconds=10)
    too_early = desk.told()
    desk.after(seconds=30)
    desk.after(seconds=30)

    assert too_early == []
    [notice] = desk.told()
    assert (notice.kind, notice.subject) == ("run.settled", "run")
    assert notice.told["verdict"] == "complete"
    assert notice.told["resources"] == [
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
    assert desk.known().settled_at


def test_a_run_is_not_settled_while_a_batch_waits_or_something_is_spooled(desk: Desk) -> None:
    waiting = desk.receive()
    desk.say("completed", stats=STATS)
    desk.after(minutes=5)
    assert desk.told("run.settled") == []

    desk.land(waiting)
    desk.spool.put(Arrival(b"{}", b"x" * 32, NOW, "pending"))
    desk.after(minutes=5)
    assert desk.told("run.settled") == []

    desk.spool.drain(lambda _: None)
    desk.after(minutes=5)
    assert len(desk.told("run.settled")) == 1


def test_what_is_missing_is_told_and_told_again_when_it_came(desk: Desk) -> None:
    desk.say("completed", stats=STATS)
    desk.after(minutes=1)
    verdicts = [(notice.kind, notice.told["verdict"]) for notice in desk.told()]

    desk.land(desk.receive())
    desk.after(minutes=1)

    assert sorted(verdicts) == [("run.incomplete", "incomplete"), ("run.settled", "incomplete")]
    assert [notice.told["verdict"] for notice in desk.told("run.settled")] == ["incomplete", "complete"]


def test_many_overseers_at_once_tell_of_each_run_once(desk: Desk) -> None:
    for number in range(20):
        desk.say("completed" if number % 2 else "stopped", run=f"run-{number}")
    desk.now += timedelta(minutes=1)

    with ThreadPoolExecutor(4) as pool:
        for looking in [pool.submit(desk.another().look) for _ in range(4)]:
            looking.result()

    subjects = [notice.subject for notice in desk.told("run.settled")]
    assert sorted(subjects) == sorted({f"run-{number}" for number in range(20)})
    assert len(desk.told("run.stopped")) == 10


def test_a_stop_is_told_with_whose_it_is(desk: Desk) -> None:
    desk.say("stopped", run="theirs")
    refused = RunSeen("ours", "job", "a", "e", NOW, "", "refused", NOW, 2, None, NOW, "sandbox")
    desk.book.note(refused)

    desk.after(minutes=1)

    told = {notice.subject: (notice.told["by"], notice.told["reason"]) for notice in desk.told("run.stopped")}
    assert told == {"theirs": ("truto", "Truto says so"), "ours": ("refusal", "sandbox")}
    assert [notice.subject for notice in desk.told("run.settled")] == ["theirs"]


def test_a_run_that_stalls_is_told_once_until_it_goes_on(desk: Desk) -> None:
    desk.say("running")
    desk.after(minutes=10)
    assert desk.told() == []

    desk.after(minutes=6)
    desk.after(minutes=6)
    assert [notice.told["silent_s"] for notice in desk.told("run.stalled")] == [16 * 60]

    desk.land(desk.receive())
    desk.after(minutes=1)
    desk.after(minutes=20)
    assert len(desk.told("run.stalled")) == 2


@pytest.mark.parametrize("status", ["rate_limited", ""])
def test_a_run_that_waits_or_was_never_announced_does_not_stall(desk: Desk, status: str) -> None:
    desk.land(desk.receive())
    if status:
        desk.say(status)

    desk.after(hours=5)

    assert desk.told() == []
    assert not desk.known().settled_at


def test_a_run_that_never_ends_is_given_up_after_a_day_and_comes_back_with_its_end(desk: Desk) -> None:
    desk.say("running", stats=STATS)
    desk.after(hours=25)
    assert list(desk.book.unsettled()) == []

    desk.say("completed", stats={})
    desk.after(minutes=1)

    assert [notice.kind for notice in desk.told()] == ["run.stalled", "run.settled"]


def test_one_odd_run_does_not_keep_the_others_from_being_looked_at(desk: Desk, store: Store) -> None:
    desk.say("completed", run="odd")
    desk.now += timedelta(seconds=1)
    desk.say("completed", run="sound")
    with store.begin() as connection:
        connection.execute(update(runs).where(runs.c.sync_job_run_id == "odd").values(run="{"))

    desk.after(minutes=1)

    assert [notice.subject for notice in desk.told("run.settled")] == ["sound"]


@pytest.mark.parametrize(
    ("limit", "landed", "cause"),
    [
        (StopAt(record_errors=4), {"errors": 5}, "5 record errors of * *, more than 4"),
        (StopAt(records=2), {"records": 3}, "3 records of * *, more than 2"),
        (
            StopAt(dead_share=0.1),
            {"records": 200, "dead": 30},
            "15% of the records of * * are dead, more than 10%",
        ),
        (StopAt(idle_minutes=2), {}, "no progress for 3 minutes, more than 2"),
    ],
)
def test_a_run_beyond_a_limit_is_reported_where_there_is_no_token(
    open_desk: Open, limit: StopAt, landed: dict[str, Any], cause: str
) -> None:
    desk = open_desk(stop_at=limit)
    desk.say("running")
    desk.land(desk.receive(), **landed)

    desk.after(minutes=3)
    desk.after(minutes=6)

    [notice] = desk.told("run.stopped")
    assert (notice.told["reason"], notice.told["by"], notice.told["is_asked"]) == (cause, "limit", False)
    assert desk.known().stop_cause == cause
    assert desk.known().stop_asked_at is None


@pytest.mark.parametrize(
    ("limit", "landed"),
    [
        (StopAt(record_errors=5), {"errors": 5}),
        (StopAt(records=3), {"records": 3}),
        (StopAt(dead_share=0.1), {"records": 50, "dead": 30}),
        (StopAt(idle_minutes=4), {}),
        (StopAt(), {"records": 200, "dead": 200, "errors": 99}),
    ],
)
def test_a_run_within_its_limits_goes_on(open_desk: Open, limit: StopAt, landed: dict[str, Any]) -> None:
    desk = open_desk(stop_at=limit)
    desk.say("running")
    desk.land(desk.receive(), **landed)

    desk.after(minutes=3)

    assert desk.told() == []
    assert desk.known().stop_cause == ""


@pytest.fixture
def play() -> Iterator[Played]:
    with receiver() as to, played(to, lost=0.3, endless=True) as made:
        yield made


def test_truto_is_asked_to_stop_a_run_once(play: Played, open_desk: Open) -> None:
    desk = open_desk(play, StopAt(records=2))
    desk.say("running", run=play.run_id)
    desk.land(desk.receive(run=play.run_id), run=play.run_id)

    for _ in range(3):
        desk.after(seconds=30)

    assert [notice.told["is_asked"] for notice in desk.told("run.stopped")] == [True]
    assert desk.known(play.run_id).stop_asked_at
    assert play.asked.count(("DELETE", f"/sync-job-run/{play.run_id}")) == 1


def test_a_stop_that_truto_did_not_take_is_told_and_tried_again(play: Played, open_desk: Open) -> None:
    desk = open_desk(play, StopAt(records=2))
    desk.say("running", run=play.run_id)
    desk.land(desk.receive(run=play.run_id), run=play.run_id)
    play.faults.append(409)

    desk.after(seconds=30)
    desk.after(seconds=30)
    desk.after(minutes=5)

    assert [notice.told["is_asked"] for notice in desk.told("run.stopped")] == [False, True]


def test_the_end_that_no_event_told_is_asked_for(play: Played, open_desk: Open) -> None:
    desk = open_desk(play)
    desk.say("running", run=play.run_id)

    desk.after(minutes=16)
    desk.after(seconds=5)

    assert desk.known(play.run_id).status == "completed"
    [notice] = desk.told("run.incomplete")
    fetched = {(line["resource"], line["method"]): line["missing"] for line in notice.told["resources"]}
    assert fetched == dict(play.report.fetched)


def test_while_truto_is_away_runs_are_settled_with_what_is_known(play: Played, open_desk: Open) -> None:
    desk = open_desk(play, TRUTO_API_URL="http://127.0.0.1:1")
    for run in ("first", "second"):
        desk.say("completed", run=run)

    desk.after(minutes=1)

    assert [notice.told["verdict"] for notice in desk.told("run.settled")] == ["unknown"] * 2


@pytest.mark.parametrize(("reactivate", "is_on"), [("0", False), ("1", True)])
def test_a_webhook_that_was_switched_off_is_told_and_switched_on_where_that_is_set(
    play: Played, open_desk: Open, reactivate: str, *, is_on: bool
) -> None:
    secret = f"{play.webhook_id}=secret"
    desk = open_desk(play, REACTIVATE_WEBHOOK=reactivate, TRUTO_WEBHOOK_SECRET=secret)
    play.ask("PATCH", f"/webhook/{play.webhook_id}", json={"is_active": False})

    for _ in range(3):
        desk.after(minutes=6)

    [notice] = desk.told("webhook.inactive")
    assert notice.told == {"webhook_id": play.webhook_id, "is_reactivated": is_on}
    assert play.api.get_webhook(play.webhook_id).is_active is is_on


def test_a_sink_that_takes_nothing_for_minutes_is_told_once_for_each_time(desk: Desk) -> None:
    for name in ("first", "second"):
        delivery = desk.receive(name=name)
        failing = Outcome(delivery, "lake", "failing", 0, 0, "sink_unavailable", "away", desk.now)
        again = Verdict(delivery, "pending", 0, "sink_unavailable", due_at=desk.now)
        Ledger(desk.store).settle([Settlement(again, outcomes=[failing])], now=desk.now)
        desk.after(minutes=4)
        before = len(desk.told("sink.failing"))
        desk.after(minutes=2)
        desk.after(minutes=2)
        assert len(desk.told("sink.failing")) == before + 1
        done = Outcome(delivery, "lake", "done", 3, 0, "", "", desk.now)
        settled = Verdict(delivery, "settled", 3, "", due_at=desk.now)
        Ledger(desk.store).settle([Settlement(settled, outcomes=[done])], now=desk.now)
        desk.after(minutes=1)

    assert [notice.told["deliveries"] for notice in desk.told("sink.failing")] == [1, 1]
    assert desk.told("sink.failing")[0].told["sink"] == "lake"


def test_all_that_is_told_can_be_posted(desk: Desk) -> None:
    desk.say("completed", stats=STATS)
    desk.after(minutes=1)

    assert Outbox(desk.store).post([], now=desk.now, most=10) == 2


def test_what_comes_while_truto_is_asked_is_not_told_as_missing(play: Played, open_desk: Open) -> None:
    desk = open_desk(play)
    desk.say("completed", stats={"crm/contacts": {"list": {"fetched": 6, "persisted": 6}}})
    desk.land(desk.receive(name="1"))
    desk.now += timedelta(minutes=1)
    # It answers that it may not tell; meanwhile, the rest comes.
    play.faults.append(403)
    play.while_asked(lambda: desk.land(desk.receive(name="2")))
    desk.overseer.look()

    desk.after(minutes=1)

    assert [notice.told["verdict"] for notice in desk.told()] == ["complete"]


def test_dead_records_are_told(desk: Desk) -> None:
    desk.land(desk.receive(), dead=1)
    desk.say("completed", stats=STATS)

    desk.after(minutes=1)

    assert [notice.told["resources"][0]["dead"] for notice in desk.told("run.incomplete")] == [1]
