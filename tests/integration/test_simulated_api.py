"""The simulated API answers about its runs as Truto's API does."""

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
from app.truto.runs import read_events_to_send, read_resource_stats
from tests.support.fake_receiver import SECRET, FakeReceiver, running_receiver

TOKEN = "a-token-that-is-never-shown"
HOUR = timedelta(hours=1)


class FinishedRuns:
    """Finished runs, and the simulated API that describes them."""

    def __init__(self, session: SimulationSession, simulated: SimulatedApi, client: TrutoClient) -> None:
        self.session = session
        self.url, self.requests, self.faults = simulated.url, simulated.requests, simulated.faults
        self._simulated = simulated
        self.api = client
        [self.report, *_] = (run.report for run in session.runs)
        self.run_id = self.report.sync_job_run_id
        self.webhook_id = str(session.runs[0].describe()["webhook_id"])

    def during_next_request(self, action: Callable[[], None]) -> None:
        """Call a function while the next request waits for its answer."""
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
def finished_runs(receiver: FakeReceiver, **changes: Any) -> Iterator[FinishedRuns]:
    options = {"records": 200, "batch_size": 20, "first_backoff_s": 0.001, **changes}
    plan = Plan(url=receiver.url, secret=SECRET, seed="test", **options)
    ready: Future[SimulationSession] = Future()

    @contextmanager
    def keep_session(session: SimulationSession) -> Iterator[None]:
        ready.set_result(session)
        yield

    simulate(plan, progress=lambda _: None, session_context=keep_session)
    session = ready.result()
    with SimulatedApi(session, TOKEN) as api, TrutoClient(api.url, TOKEN) as client:
        yield FinishedRuns(session, api, client)


def by_resource(entries: list[LogEntry]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for entry in entries:
        counts[entry.resource, entry.method] += entry.num_records
    return counts


def test_the_log_holds_every_page_delivered_or_lost() -> None:
    with (
        running_receiver() as receiver,
        finished_runs(receiver, lost=0.4, late=2, duplicates=0.3) as finished,
    ):
        log, report = finished.log(), finished.report

    assert report.lost
    assert by_resource([entry for entry in log if entry.is_delivered]) == report.persisted
    lost = [entry for entry in log if not entry.is_delivered]
    assert by_resource(lost) == report.lost
    assert {(entry.http_status, entry.retry_count, entry.status) for entry in lost} == {(500, 3, "failed")}
    assert by_resource(log) == report.fetched


def test_the_log_has_the_last_status_and_the_number_of_retries() -> None:
    def answer(event: dict[str, Any], earlier: int) -> int:
        resource = event["payload"].get("resource")
        return {"crm/accounts": 200 if earlier >= 2 else 503, "ticketing/tickets": 502}.get(resource, 200)

    with running_receiver(answer) as receiver, finished_runs(receiver) as finished:
        log = finished.log()

    outcomes = {
        entry.resource: (entry.is_delivered, entry.http_status, entry.retry_count, entry.status)
        for entry in log
    }
    assert outcomes == {
        "crm/contacts": (True, 200, 0, "completed"),
        "crm/accounts": (True, 200, 2, "completed"),
        "ticketing/tickets": (False, 502, 3, "failed"),
        "ticketing/comments": (True, 200, 0, "completed"),
    }


@pytest.mark.parametrize("batched", [False, True])
def test_the_log_holds_every_record_error(batched: bool) -> None:
    with (
        running_receiver() as receiver,
        finished_runs(receiver, record_errors=7, batched_errors=batched) as finished,
    ):
        entries = finished.request_log().json()["result"]

    errors = [entry for entry in entries if entry["sync_job_run_event"] == "record_error"]
    assert len(errors) == 7
    assert all(entry["resource"] and entry["method"] and not entry["num_records"] for entry in errors)


def test_a_page_without_an_answer_has_no_status_in_the_log() -> None:
    with running_receiver() as receiver:
        pass
    with finished_runs(receiver, records=1) as finished:
        [entry] = finished.log()

    assert (entry.is_delivered, entry.http_status, entry.retry_count) == (False, None, 3)


def test_a_log_is_filtered_by_run_and_paginated() -> None:
    with (
        running_receiver() as receiver,
        finished_runs(receiver, runs=2, records=300, batch_size=1) as finished,
    ):
        first = finished.request_log(limit="100").json()
        log = finished.log()
        everything = finished.request("GET", "/log", params={"log_type": "rapid_bridge"}).json()

    assert (len(first["result"]), first["next_cursor"]) == (100, "100")
    assert len(log) == 150
    assert len(everything["result"]) == 100


def test_a_log_is_filtered_by_time() -> None:
    with running_receiver() as receiver, finished_runs(receiver, batch_size=5, pause_s=0.002) as finished:
        stamps = [entry["timestamp"] for entry in finished.request_log().json()["result"]]
        bounds = {"created_at[gt]": stamps[3], "created_at[lt]": stamps[20]}
        filtered = [entry["timestamp"] for entry in finished.request_log(**bounds).json()["result"]]

    assert filtered == [stamp for stamp in stamps if stamps[3] < stamp < stamps[20]]
    assert filtered


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
def test_an_invalid_log_query_is_rejected(changes: dict[str, str]) -> None:
    with running_receiver() as receiver, finished_runs(receiver, records=1) as finished:
        assert finished.request_log(**changes).status_code == 422


def test_a_run_has_its_webhook_and_its_times() -> None:
    with running_receiver() as receiver, finished_runs(receiver) as finished:
        run = finished.api.get_run(finished.run_id)
        events = receiver.events

    assert run.webhook_id == finished.webhook_id == events[0]["webhook_id"]
    assert run.args == {}
    assert run.created_at
    assert run.started_at
    assert run.finished_at
    assert run.created_at <= run.started_at <= run.finished_at
    assert as_time(events[-1]["payload"]["finished_at"]) == run.finished_at
    assert [events[place]["payload"]["started_at"] is None for place in (0, 1)] == [True, False]


def test_the_api_reports_the_end_of_an_endless_run() -> None:
    with running_receiver() as receiver, finished_runs(receiver, endless=True, late=1) as finished:
        run = finished.api.get_run(finished.run_id)

    assert (run.status, receiver.actions.count("completed")) == ("completed", 0)
    persisted = sum(stats.persisted or 0 for stats in read_resource_stats(run.resource_stats).values())
    assert (
        finished.report.persisted.total() == 200 == persisted + len(receiver.events[-1]["payload"]["records"])
    )


def test_the_plans_webhook_can_be_deactivated_and_activated() -> None:
    with running_receiver() as receiver, finished_runs(receiver, records=1) as finished:
        at_first = finished.api.get_webhook(finished.webhook_id)
        off = finished.request("PATCH", f"/webhook/{finished.webhook_id}", json={"is_active": False}).json()
        current = finished.api.get_webhook(finished.webhook_id)
        on = finished.api.activate_webhook(finished.webhook_id)

    assert (at_first.target_url, at_first.is_active, at_first.secret) == (receiver.url, True, "")
    assert "sync_job_run:record" in at_first.event_types
    assert (off["is_active"], current.is_active, on.is_active) == (False, False, True)


def test_a_webhook_test_sends_a_signed_event() -> None:
    with running_receiver() as receiver, finished_runs(receiver, records=1) as finished:
        assert finished.api.test_webhook(finished.webhook_id)

    event = receiver.events[-1]
    assert (event["event"], event["payload"]) == ("test", {"foo": "bar"})
    assert event["webhook_id"] == finished.webhook_id
    assert not receiver.forged


def test_a_webhook_test_that_the_receiver_rejects_is_an_error() -> None:
    with (
        running_receiver(lambda event, _earlier: 503 if event["event"] == "test" else 200) as receiver,
        finished_runs(receiver, records=1) as finished,
        pytest.raises(TrutoRefused, match="The target URL answered 503"),
    ):
        finished.api.test_webhook(finished.webhook_id)

    assert receiver.actions.count("") == 1


def test_a_created_webhook_signs_with_its_own_secret_returned_once() -> None:
    with running_receiver() as receiver, finished_runs(receiver, records=1) as finished:
        created = finished.api.create_webhook(receiver.url, ["sync_job_run:record"])
        known = finished.api.get_webhook(created.id)
        with pytest.raises(TrutoRefused, match="401"):
            finished.api.test_webhook(created.id)

    assert created.secret
    assert known.secret == ""
    assert (known.target_url, known.event_types, known.is_active) == (
        receiver.url,
        ("sync_job_run:record",),
        True,
    )
    # The receiver accepts the plan's secret only.
    assert len(receiver.forged) == 1
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
def test_an_unknown_object_or_an_invalid_body_is_rejected(
    method: str, path: str, body: Any, status: int
) -> None:
    with running_receiver() as receiver, finished_runs(receiver, records=1) as finished:
        answer = finished.request(method, path.replace("{webhook}", finished.webhook_id), json=body)

    assert answer.status_code == status
    assert answer.json()["message"]


def test_a_run_of_a_v4_job_has_its_account_in_its_arguments() -> None:
    with (
        running_receiver() as receiver,
        finished_runs(receiver, v4=True, events_to_send=("record", "started")) as finished,
    ):
        run = finished.api.get_run(finished.run_id)

    assert (run.status, run.version, run.integrated_account_id) == ("completed", 4, None)
    assert run.args == {"integrated_account_id": finished.report.integrated_account_id}
    assert read_events_to_send(run.model_dump()) == ["record", "started"]
    assert [node.get("type") for node in run.resources or ()] == ["request"] * 4 + ["destination"]


def test_a_started_run_has_the_options_of_its_start() -> None:
    args = {"since": "2026-01-01", "ids": [1, 2]}
    with running_receiver() as receiver:
        reports: list[RunReport] = []

        @contextmanager
        def start_another_run(session: SimulationSession) -> Iterator[None]:
            with SimulatedApi(session, TOKEN) as api, TrutoClient(api.url, TOKEN) as client:
                yield
                ids = {"sync_job_id": session.runs[0].report.sync_job_id, "integrated_account_id": "account"}
                options = {"args": args, "ignore_previous_run": True}
                started = client.start_run({**ids, **options})
                assert (started.args, started.ignore_previous_run) == (args, True)
                reports.extend(session.finish())

        simulate(
            Plan(url=receiver.url, secret=SECRET, seed="test", records=1),
            progress=lambda _: None,
            session_context=start_another_run,
        )

    payloads = [event["payload"] for event in receiver.events if event["event"].endswith(":completed")]
    assert [(run["args"], run["ignore_previous_run"]) for run in payloads] == [({}, False), (args, True)]
    assert [report.status for report in reports] == ["completed"] * 2
