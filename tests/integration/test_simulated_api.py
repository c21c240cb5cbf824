"""The stand-in's API tells of its runs what Truto's would, and is asked as Truto's is."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.errors import TrutoRefused
from app.simulator.api import SimulatedApi
from app.simulator.plan import Plan
from app.simulator.report import RunReport
from app.simulator.session import SimulationSession, simulate
from app.truto.client import TrutoClient
from app.truto.coerce import as_time
from app.truto.run_log import LogEntry
from app.truto.runs import read_resource_stats
from tests.support.fake_receiver import SECRET, FakeReceiver, running_receiver

TOKEN = "a-token-that-is-never-shown"
HOUR = timedelta(hours=1)


class FinishedRuns:
    """Runs that have ended, and the API that tells of them."""

    def __init__(self, stage: SimulationSession, simulated: SimulatedApi, client: TrutoClient) -> None:
        self.stage = stage
        self.url, self.requests, self.faults = simulated.url, simulated.requests, simulated.faults
        self._simulated = simulated
        self.api = client
        [self.report, *_] = (run.report for run in stage.runs)
        self.run_id = self.report.sync_job_run_id
        self.webhook_id = str(stage.runs[0].describe()["webhook_id"])

    def during_next_request(self, action: Callable[[], None]) -> None:
        """Have something happen while the next request waits for its answer."""
        self._simulated.request_hooks.append(action)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.request(method, self.url + path, headers=headers, trust_env=False, **options)

    def request_log(self, **changes: str) -> httpx.Response:
        parameters = {"log_type": "rapid_bridge", "log_type_filter[sync_job_run_id]": self.run_id, **changes}
        return self.request("GET", "/log", params=parameters)

    def log(self) -> list[LogEntry]:
        now = datetime.now(UTC)
        return list(self.api.read_log(self.run_id, since=now - HOUR, until=now + HOUR))


@contextmanager
def finished_runs(to: FakeReceiver, **changes: Any) -> Iterator[FinishedRuns]:
    options = {"records": 200, "batch_size": 20, "first_backoff_s": 0.001, **changes}
    plan = Plan(url=to.url, secret=SECRET, seed="test", **options)
    ready: Future[SimulationSession] = Future()

    @contextmanager
    def beside(stage: SimulationSession) -> Iterator[None]:
        ready.set_result(stage)
        yield

    simulate(plan, progress=lambda _: None, session_context=beside)
    stage = ready.result()
    with SimulatedApi(stage, TOKEN) as api, TrutoClient(api.url, TOKEN) as client:
        yield FinishedRuns(stage, api, client)


def by_resource(entries: list[LogEntry]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        counts[entry.resource, entry.method] += entry.num_records
    return counts


def test_the_log_holds_every_page_delivered_or_lost() -> None:
    with running_receiver() as to, finished_runs(to, lost=0.4, late=2, duplicates=0.3) as play:
        log, report = play.log(), play.report

    assert report.lost
    assert by_resource([entry for entry in log if entry.is_delivered]) == report.persisted
    lost = [entry for entry in log if not entry.is_delivered]
    assert by_resource(lost) == report.lost
    assert {(entry.http_status, entry.retry_count, entry.status) for entry in lost} == {(500, 3, "failed")}
    assert by_resource(log) == report.fetched


def test_the_log_tells_what_the_receiver_answered_and_how_often_it_was_asked() -> None:
    def answer(event: dict[str, Any], seen: int) -> int:
        resource = event["payload"].get("resource")
        return {"crm/accounts": 200 if seen >= 2 else 503, "ticketing/tickets": 502}.get(resource, 200)

    with running_receiver(answer) as to, finished_runs(to) as play:
        log = play.log()

    told = {
        entry.resource: (entry.is_delivered, entry.http_status, entry.retry_count, entry.status)
        for entry in log
    }
    assert told == {
        "crm/contacts": (True, 200, 0, "completed"),
        "crm/accounts": (True, 200, 2, "completed"),
        "ticketing/tickets": (False, 502, 3, "failed"),
        "ticketing/comments": (True, 200, 0, "completed"),
    }


@pytest.mark.parametrize("batched", [False, True])
def test_the_log_holds_every_record_error(batched: bool) -> None:
    with running_receiver() as to, finished_runs(to, record_errors=7, batched_errors=batched) as play:
        found = play.request_log().json()["result"]

    errors = [entry for entry in found if entry["sync_job_run_event"] == "record_error"]
    assert len(errors) == 7
    assert all(entry["resource"] and entry["method"] and not entry["num_records"] for entry in errors)


def test_an_answer_that_never_came_has_no_status_in_the_log() -> None:
    with running_receiver() as to:
        pass
    with finished_runs(to, records=1) as play:
        [entry] = play.log()

    assert (entry.is_delivered, entry.http_status, entry.retry_count) == (False, None, 3)


def test_a_log_is_of_its_run_alone_and_read_a_page_at_a_time() -> None:
    with running_receiver() as to, finished_runs(to, runs=2, records=300, batch_size=1) as play:
        first = play.request_log(limit="100").json()
        log = play.log()
        everything = play.request("GET", "/log", params={"log_type": "rapid_bridge"}).json()

    assert (len(first["result"]), first["next_cursor"]) == (100, "100")
    assert len(log) == 150
    assert len(everything["result"]) == 100


def test_a_log_is_of_the_time_between_its_bounds() -> None:
    with running_receiver() as to, finished_runs(to, batch_size=5, pause_s=0.002) as play:
        stamps = [entry["timestamp"] for entry in play.request_log().json()["result"]]
        bounds = {"created_at[gt]": stamps[3], "created_at[lt]": stamps[20]}
        found = [entry["timestamp"] for entry in play.request_log(**bounds).json()["result"]]

    assert found == [stamp for stamp in stamps if stamps[3] < stamp < stamps[20]]
    assert found


@pytest.mark.parametrize(
    "changes",
    [
        {"log_type": "webhook"},
        {"limit": "101"},
        {"limit": "x"},
        {"created_at[gt]": "2026-01-01T00:00:00Z"},
        {"created_at[gt]": "2026-01-01T00:00:00Z", "created_at[lt]": "2026-02-02T00:00:00Z"},
    ],
    ids=str,
)
def test_what_truto_would_not_answer_is_refused(changes: dict[str, str]) -> None:
    with running_receiver() as to, finished_runs(to, records=1) as play:
        assert play.request_log(**changes).status_code == 422


def test_a_run_tells_its_webhook_and_its_times() -> None:
    with running_receiver() as to, finished_runs(to) as play:
        run = play.api.get_run(play.run_id)
        told = to.events

    assert run.webhook_id == play.webhook_id == told[0]["webhook_id"]
    assert run.args == {}
    assert run.created_at
    assert run.started_at
    assert run.finished_at
    assert run.created_at <= run.started_at <= run.finished_at
    assert as_time(told[-1]["payload"]["finished_at"]) == run.finished_at
    assert [told[place]["payload"]["started_at"] is None for place in (0, 1)] == [True, False]


def test_an_endless_run_has_ended_for_who_asks() -> None:
    with running_receiver() as to, finished_runs(to, endless=True, late=1) as play:
        run = play.api.get_run(play.run_id)

    assert (run.status, to.actions.count("completed")) == ("completed", 0)
    persisted = sum(stats.persisted or 0 for stats in read_resource_stats(run.resource_stats).values())
    assert play.report.persisted.total() == 200 == persisted + len(to.events[-1]["payload"]["records"])


def test_the_webhook_of_the_plan_is_there_and_can_be_switched_off_and_on() -> None:
    with running_receiver() as to, finished_runs(to, records=1) as play:
        at_first = play.api.get_webhook(play.webhook_id)
        off = play.request("PATCH", f"/webhook/{play.webhook_id}", json={"is_active": False}).json()
        seen = play.api.get_webhook(play.webhook_id)
        on = play.api.activate_webhook(play.webhook_id)

    assert (at_first.target_url, at_first.is_active, at_first.secret) == (to.url, True, "")
    assert "sync_job_run:record" in at_first.event_types
    assert (off["is_active"], seen.is_active, on.is_active) == (False, False, True)


def test_a_test_is_a_signed_event_to_the_receiver() -> None:
    with running_receiver() as to, finished_runs(to, records=1) as play:
        assert play.api.test_webhook(play.webhook_id)

    event = to.events[-1]
    assert (event["event"], event["payload"]) == ("test", {"foo": "bar"})
    assert event["webhook_id"] == play.webhook_id
    assert not to.forged


def test_a_test_that_the_receiver_does_not_take_is_an_error() -> None:
    with (
        running_receiver(lambda event, _seen: 503 if event["event"] == "test" else 200) as to,
        finished_runs(to, records=1) as play,
        pytest.raises(TrutoRefused, match="The target URL answered 503"),
    ):
        play.api.test_webhook(play.webhook_id)

    assert to.actions.count("") == 1


def test_a_created_webhook_signs_with_the_secret_that_is_told_once() -> None:
    with running_receiver() as to, finished_runs(to, records=1) as play:
        created = play.api.create_webhook(to.url, ["sync_job_run:record"])
        known = play.api.get_webhook(created.id)
        with pytest.raises(TrutoRefused, match="401"):
            play.api.test_webhook(created.id)

    assert created.secret
    assert known.secret == ""
    assert (known.target_url, known.event_types, known.is_active) == (to.url, ("sync_job_run:record",), True)
    # The receiver knows the plan's secret alone.
    assert len(to.forged) == 1
    assert created.secret != SECRET


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/webhook/unknown", None, 404),
        ("PATCH", "/webhook/unknown", {"is_active": True}, 404),
        ("POST", "/webhook/test", {"id": "unknown"}, 404),
        ("POST", "/webhook/test", None, 404),
        ("POST", "/webhook", {}, 422),
        ("POST", "/webhook", {"target_url": "http://x", "event_types": "all"}, 422),
        ("PATCH", "/webhook/{webhook}", {"is_active": "no"}, 422),
        ("POST", "/sync-job-run", {"sync_job_id": "x"}, 422),
        ("POST", "/sync-job-run", {"sync_job_id": "x", "integrated_account_id": "y"}, 404),
        ("DELETE", "/sync-job-run/unknown", None, 404),
        ("POST", "/log", {}, 404),
        ("GET", "/elsewhere", None, 404),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_refused(
    method: str, path: str, body: Any, status: int
) -> None:
    with running_receiver() as to, finished_runs(to, records=1) as play:
        answer = play.request(method, path.replace("{webhook}", play.webhook_id), json=body)

    assert answer.status_code == status
    assert answer.json()["message"]


def test_a_started_run_tells_what_it_was_started_with() -> None:
    args = {"since": "2026-01-01", "ids": [1, 2]}
    with running_receiver() as to:
        reports: list[RunReport] = []

        @contextmanager
        def beside(stage: SimulationSession) -> Iterator[None]:
            with SimulatedApi(stage, TOKEN) as api, TrutoClient(api.url, TOKEN) as client:
                yield
                ids = {"sync_job_id": stage.runs[0].report.sync_job_id, "integrated_account_id": "account"}
                told = {"args": args, "ignore_previous_run": True}
                started = client.start_run({**ids, **told})
                assert (started.args, started.ignore_previous_run) == (args, True)
                reports.extend(stage.finish())

        simulate(
            Plan(url=to.url, secret=SECRET, seed="test", records=1),
            progress=lambda _: None,
            session_context=beside,
        )

    payloads = [event["payload"] for event in to.events if event["event"].endswith(":completed")]
    assert [(run["args"], run["ignore_previous_run"]) for run in payloads] == [({}, False), (args, True)]
    assert [report.status for report in reports] == ["completed"] * 2
