"""One trace leads from the POST to the sink, and no collector can stop or delay a delivery."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from redis import Redis

from app.database.engine import open_database
from app.store.migrate import migrate
from app.truto.signature import sign
from tests.support.otlp_collector import CollectedSpan, OtlpCollector
from tests.support.processes import ROOT, Command
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import SECRET, WebProcess, make_environment

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
RECORD_TEXT = "private@example.com"


@dataclass(frozen=True)
class TracedService:
    """A web process and a worker that send their spans to a collector."""

    collector: OtlpCollector
    web: WebProcess
    worker: Command
    environment: dict[str, str]

    def post(self, id_: str, *, traceparent: str = "", signature: str | None = None) -> httpx.Response:
        batch = {
            "sync_job_run_id": "run",
            "integrated_account_id": "account",
            "resource": "crm/contacts",
            "method": "list",
            "records": [{"id": "1", "email": RECORD_TEXT}],
        }
        body = json.dumps({"id": id_, "event": "sync_job_run:record", "payload": batch}).encode()
        headers = {"X-Truto-Signature": sign(body, SECRET) if signature is None else signature}
        headers |= {"traceparent": traceparent} if traceparent else {}
        return httpx.post(f"{self.web.url}/webhooks/truto", content=body, headers=headers)

    def find_spans(self, delivery: str, *names: str, attempts: int = 1) -> list[list[CollectedSpan]]:
        """Return the spans of a delivery by name, once the worker has sent its own."""

        def find(name: str) -> list[CollectedSpan]:
            return [
                span
                for span in self.collector.find(name)
                if span.attributes.get("rapidbridge.delivery") == delivery
            ]

        wait_until(
            lambda: bool(find("accept")) and len(find("deliver")) == attempts,
            what=lambda: f"the spans of {delivery}\n{self.worker.log}{self.web.log}",
        )
        return [find(name) for name in names]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[TracedService]:
    with Redis.from_url(redis_url) as client:
        client.flushall()
    folder = tmp_path_factory.mktemp("traced")
    url = f"sqlite:///{folder}/store.db"
    store = open_database(url)
    migrate(store)
    store.close()
    with OtlpCollector() as collector:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        environment = make_environment(
            DATABASE_URL=url, REDIS_URL=redis_url, TRUTO_WEBHOOK_SECRET=SECRET, **traced
        )
        with (
            WebProcess(folder, database_url=url, redis_url=redis_url, **traced) as web,
            Command(["app.cli", "worker"], folder=folder, environment=environment) as worker,
        ):
            yield TracedService(collector, web, worker, environment | {"PYTHONPATH": str(ROOT)})


def test_one_trace_leads_from_the_caller_to_the_sink(service: TracedService) -> None:
    delivery = service.post("traced", traceparent=CALLER).json()["delivery"]

    [[accept], [deliver]] = service.find_spans(delivery, "accept", "deliver")
    _, trace_id, caller_id, _ = CALLER.split("-")
    [commit] = [span for span in service.collector.find("commit") if span.parent_id == accept.span_id]
    [write] = [span for span in service.collector.find("sink.write") if span.parent_id == deliver.span_id]
    assert (accept.trace_id, accept.parent_id, accept.process) == (trace_id, caller_id, "web")
    assert {span.trace_id for span in (commit, deliver, write)} == {trace_id}
    assert commit.links == [accept.span_id]
    assert (deliver.parent_id, deliver.process) == (accept.span_id, "worker")
    wait_until(lambda: any(job.span_id in deliver.links for job in service.collector.find("job")))
    assert accept.attributes["rapidbridge.status"] == "accepted"
    assert deliver.attributes["rapidbridge.state"] == "settled"
    assert (write.attributes["rapidbridge.sink"], write.attributes["rapidbridge.written"]) == ("main", 1)
    assert RECORD_TEXT not in str(service.collector.spans)


def test_a_replay_has_a_trace_of_its_own_linked_to_the_post(service: TracedService) -> None:
    delivery = service.post("replayed").json()["delivery"]
    [[accept]] = service.find_spans(delivery, "accept")

    replay = subprocess.run(
        [sys.executable, "-m", "app.cli", "replay", "--all", "--yes"],
        cwd=service.worker._cwd,
        env=service.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert replay.returncode == 0, replay.stdout + replay.stderr
    [[first, again]] = service.find_spans(delivery, "deliver", attempts=2)
    assert first.trace_id == accept.trace_id
    assert again.trace_id != accept.trace_id
    assert accept.span_id in again.links


def test_an_unsigned_request_adds_to_no_trace(service: TracedService) -> None:
    refused = service.post("forged", traceparent=CALLER.replace("4bf9", "aaaa"), signature="v=" + "A" * 44)

    # Spans arrive in order: one of a later request shows that the refused one has none.
    delivery = service.post("signed").json()["delivery"]
    service.find_spans(delivery, "accept")
    assert refused.status_code == 401
    assert not [span for span in service.collector.spans if span.trace_id.startswith("aaaa")]


@pytest.mark.parametrize(
    "traceparent", ["x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", CALLER.upper(), CALLER + "-more"]
)
def test_an_invalid_traceparent_begins_a_new_trace(service: TracedService, traceparent: str) -> None:
    delivery = service.post(f"invalid {traceparent}", traceparent=traceparent).json()["delivery"]

    [[accept]] = service.find_spans(delivery, "accept")
    assert accept.parent_id == ""


def test_a_trace_that_the_caller_does_not_sample_is_not_recorded(service: TracedService) -> None:
    unsampled = service.post("unsampled", traceparent=CALLER.removesuffix("01") + "00")
    delivery = service.post("sampled").json()["delivery"]

    service.find_spans(delivery, "deliver")
    assert unsampled.json()["delivery"] not in str(service.collector.spans)


def test_a_collector_that_stalls_delays_no_delivery_and_no_shutdown(tmp_path: Path, redis_url: str) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    store.close()
    with OtlpCollector(is_stalled=True) as collector:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with WebProcess(tmp_path, database_url=url, redis_url=redis_url, **traced) as web:
            slowest_s = 0.0
            for number in range(50):
                body = json.dumps({"id": str(number), "event": "test"}).encode()
                began_s = time.monotonic()
                assert web.post(body).http_status == 200
                slowest_s = max(slowest_s, time.monotonic() - began_s)
            wait_until(lambda: collector.requests > 0)
            web.terminate()
            began_s = time.monotonic()
            web.wait()
            took_s = time.monotonic() - began_s

    assert slowest_s < 1.0 * measure_slowdown()
    # 2 s for the spans, and the rest for the process itself.
    assert took_s < 4.0 * measure_slowdown(), web.log


def test_spans_that_wait_are_sent_when_a_process_ends(tmp_path: Path, redis: Redis, redis_url: str) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    store = open_database(url)
    migrate(store)
    store.close()
    with OtlpCollector() as collector:
        traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        environment = make_environment(
            DATABASE_URL=url, REDIS_URL=redis_url, TRUTO_WEBHOOK_SECRET=SECRET, **traced
        )
        with (
            WebProcess(tmp_path, database_url=url, redis_url=redis_url, **traced) as web,
            Command(["app.cli", "worker"], folder=tmp_path, environment=environment) as worker,
        ):
            web.post(json.dumps({"id": "1", "event": "test"}).encode())
            worker.wait_for("delivery.settled")
            before = len(collector.spans)

    assert before == 0
    assert {span.name for span in collector.spans} == {"accept", "commit", "job", "deliver"}
