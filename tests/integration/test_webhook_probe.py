"""`rapidbridge webhook probe` against a receiver, and a simulated Truto in each unconfirmed form."""

import json
import re
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from app.config.settings import read_settings
from app.database.engine import open_database
from app.redis.observed_tests import ObservedTests
from app.simulator.api import SimulatedApi
from app.simulator.plan import Plan
from app.simulator.session import running_session
from app.simulator.variants import VARIANTS, Variants
from app.store.audit_log import AuditLog
from app.store.delivery_filter import DeliveryFilter, find_deliveries
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.truto.signature import ENCODINGS
from app.truto.webhooks import SIMULATED_EVENTS
from tests.support.commands import run_command
from tests.support.documentation import read_section
from tests.support.valkey import ValkeyServer
from tests.support.waiting import measure_slowdown
from tests.support.web_process import SECRET, WebProcess, make_environment

TOKEN = "a-token-that-is-never-shown"
# The questions that `test` events answer.
TEST_QUESTIONS = {
    "name of the event",
    "created_at",
    "webhook_id",
    "tenant_id",
    "signature header",
    "member that chooses the event",
    "method in the log of runs",
    "retry",
    "second test event",
    "test of a failing receiver",
}
PAGE, ERROR = "sync_job_run:record", "sync_job_run:record_error"


@dataclass
class Truto:
    """A simulated Truto, and the receiver that it sends to."""

    web: WebProcess
    settings: dict[str, str]
    webhook_id: str
    requests: list[tuple[str, str]]
    hooks: deque[Callable[[], None]]

    def probe(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = make_environment(**(self.settings | settings))
        arguments = ("webhook", "probe", self.webhook_id, "--timeout", "1", *words)
        return run_command(*arguments, cwd=Path(self.settings["FOLDER"]), environment=environment)

    def answers(self, *events: str) -> dict[str, str]:
        ran = self.probe("--events", ",".join(events or ("test",)), "--yes", "--json")
        assert ran.stdout, ran.stderr
        answers: dict[str, str] = json.loads(ran.stdout)["answers"]
        return answers


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[WebProcess]:
    folder = tmp_path_factory.mktemp("web")
    url = f"sqlite:///{folder}/inbox.db"
    store = open_database(url)
    migrate(store)
    store.close()
    with WebProcess(folder, database_url=url, redis_url=redis_url) as process:
        yield process


@contextmanager
def simulated_truto(
    web: WebProcess, folder: Path, variants: dict[str, str] | None = None, **options: Any
) -> Iterator[Truto]:
    plan = Plan(
        f"{web.url}/webhooks/truto",
        SECRET,
        seed=folder.name,
        records=1,
        first_backoff_s=0.05,
        variants=Variants(**(variants or {})),
        **options,
    )
    with running_session(plan, progress=lambda _: None) as session:
        session.finish()
        with SimulatedApi(session, TOKEN) as api:
            settings = {
                name: web.environment[name] for name in ("DATABASE_URL", "REDIS_URL", "TRUTO_WEBHOOK_SECRET")
            }
            settings |= {"TRUTO_API_URL": api.url, "TRUTO_API_TOKEN": TOKEN, "FOLDER": str(folder)}
            yield Truto(
                web, settings, str(session.runs[0].describe()["webhook_id"]), api.requests, api.request_hooks
            )


@pytest.fixture
def truto(web: WebProcess, tmp_path: Path) -> Iterator[Truto]:
    with simulated_truto(web, tmp_path, {"test_retry": "same_body"}) as simulated:
        yield simulated


def test_a_probe_reports_every_event_that_truto_can_simulate(truto: Truto, tmp_path: Path) -> None:
    ran = truto.probe("--yes", "--report", "probe.json")

    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads((tmp_path / "probe.json").read_text())
    arrived = {event for event, result in report["events"].items() if result == "arrived"}
    assert arrived == {"test", *SIMULATED_EVENTS} == report["shapes"].keys()
    assert report["events"].keys() - arrived == {"sync_job_run:stopped"}
    assert report["shapes"][PAGE]["payload.meta.count"] == {"types": ["number"]}
    assert report["shapes"][PAGE]["payload.sync_job_run_id"] == {"types": ["text (UUID)"]}
    assert "not seen" not in report["answers"].values()
    documented = re.findall(
        r"^\| (.+?) \|", read_section("docs/protocol.md", "Settle the unconfirmed facts"), re.MULTILINE
    )
    assert {question for row in documented[1:] for question in row.split(", ")} == report["answers"].keys()
    assert all(len(line) < 80 for line in ran.stdout.splitlines())


def test_a_report_holds_no_value_and_no_id(truto: Truto) -> None:
    ran = truto.probe("--yes", "--events", f"{PAGE},sync_job_run:completed", "--json")

    store = open_database(truto.settings["DATABASE_URL"])
    inbox = Inbox(store)
    bodies = [
        json.loads(inbox.read_body(delivery.id)) for delivery in find_deliveries(store, DeliveryFilter())
    ]
    store.close()
    values = {text for body in bodies for text in list_texts(body)} - {PAGE, "sync_job_run:completed", "test"}
    assert len(values) > 50
    report = list(list_texts(json.loads(ran.stdout)))
    assert not values & {word for text in report for word in (text, *text.split())}
    assert truto.webhook_id not in ran.stdout + ran.stderr


def list_texts(value: Any) -> Iterator[str]:
    """Yield every text in a decoded value that may be a value of a record."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from list_texts(inner)
    elif isinstance(value, str) and len(value) > 6:
        yield value


def test_an_event_that_truto_does_not_know_is_no_problem(truto: Truto) -> None:
    ran = truto.probe("--yes", "--events", f"{PAGE},sync_job_run:stopped")

    assert ran.returncode == 0
    assert "Refused by Truto (1): sync_job_run:stopped" in ran.stdout


def test_an_event_that_only_arrives_by_itself_is_described_without_its_name(
    web: WebProcess, tmp_path: Path
) -> None:
    with simulated_truto(web, tmp_path, {"test_member": "none"}) as truto:

        def send() -> None:
            body = json.dumps({"id": tmp_path.name, "event": "ada:lovelace", "webhook_id": truto.webhook_id})
            assert web.post(body.encode()).status == "accepted"

        truto.hooks.append(send)
        ran = truto.probe("--yes", "--events", "sync_job_run:stopped", "--json")

    assert "another event" in json.loads(ran.stdout)["shapes"]
    assert "lovelace" not in ran.stdout + ran.stderr


def test_an_event_that_does_not_arrive_exits_with_1(truto: Truto, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/another.db"
    store = open_database(url)
    migrate(store)
    store.close()

    ran = truto.probe("--yes", "--events", PAGE, DATABASE_URL=url)

    assert ran.returncode == 1
    assert "Sent, but not arrived (1): test" in ran.stdout
    assert f"webhook show {truto.webhook_id}" in ran.stderr


def test_an_event_that_the_inbox_has_already_counts_as_arrived(web: WebProcess, tmp_path: Path) -> None:
    with simulated_truto(web, tmp_path, {"test_body": "fixed", "test_retry": "same_body"}) as truto:
        runs = [truto.probe("--yes", "--events", PAGE) for _ in range(2)]

    assert ["Arrived (2): test" in ran.stdout for ran in runs] == [True, True]


def test_a_probe_is_recorded_and_leaves_nothing_in_redis(truto: Truto, redis_url: str) -> None:
    assert truto.probe("--events", "test").returncode == 0

    store = open_database(truto.settings["DATABASE_URL"])
    [entry] = AuditLog(store).list_newest(limit=1)
    store.close()
    assert (entry.action, entry.subject) == ("webhook.probe", truto.webhook_id)
    with Redis.from_url(redis_url) as redis:
        assert not list(redis.scan_iter("*probe*"))


def test_simulated_events_are_sent_after_a_confirmation_only(truto: Truto) -> None:
    ran = truto.probe()

    assert ran.returncode == 2
    assert "--yes" in ran.stderr
    assert not truto.requests


def test_no_event_is_sent_if_the_report_cannot_be_written(truto: Truto, tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text("{}")

    ran = truto.probe("--yes", "--report", "probe.json")

    assert ran.returncode == 2
    assert "--force" in ran.stderr
    assert not truto.requests
    assert truto.probe("--events", "test", "--report", "probe.json", "--force").returncode == 0
    assert json.loads((tmp_path / "probe.json").read_text())["is_complete"] is True


def test_an_unknown_webhook_exits_with_1(truto: Truto) -> None:
    truto.webhook_id = "00000000-0000-4000-8000-000000000000"

    ran = truto.probe("--events", "test")

    assert ran.returncode == 1
    assert "404" in ran.stderr


def test_without_redis_the_headers_are_not_seen(truto: Truto) -> None:
    ran = truto.probe("--events", "test", "--json", REDIS_URL="")
    unreachable = truto.probe("--events", "test", REDIS_URL="redis://127.0.0.1:9")

    answers = json.loads(ran.stdout)["answers"]
    assert ran.returncode == 0
    assert "REDIS_URL" in ran.stderr
    assert (answers["mac encoding"], answers["retry"]) == ("not seen", "not seen")
    assert answers["name of the event"] == "event"
    assert unreachable.returncode == 3


def test_a_probe_rejects_one_test_event_of_its_webhook_and_nothing_else(
    web: WebProcess, redis_url: str
) -> None:
    def post(event: str, webhook_id: str = "w", number: int = 1) -> str:
        body = json.dumps({"id": f"{event}{number}", "event": event, "webhook_id": webhook_id, "payload": {}})
        return web.post(body.encode()).status

    settings = read_settings(web.environment)
    with Redis.from_url(redis_url) as redis:
        observed = ObservedTests(redis, settings.namespace)
        observed.reject_next()
        before = post("test")
        observed.start("w")
        observed.reject_next()
        others = [post("sync_job_run:record"), post("test", "another")]
        rejected, repeated, next_one = post("test", number=2), post("test", number=2), post("test", number=3)
        requests = observed.list_requests()
        observed.stop()
        after = post("test", number=4)

    assert [before, *others, next_one, after] == ["accepted"] * 5
    # The rejected event is stored.
    assert (rejected, repeated) == ("rejected_once", "duplicate")
    assert [request.is_rejected for request in requests] == [True, False, False]
    assert [request.encoding for request in requests] == ["hex"] * 3


def test_a_redis_that_does_not_answer_delays_no_test_event_for_long(
    tmp_path: Path, private_valkey: ValkeyServer
) -> None:
    url = f"sqlite:///{tmp_path}/inbox.db"
    store = open_database(url)
    migrate(store)
    store.close()
    body = json.dumps({"id": "1", "event": "test", "webhook_id": "w", "payload": {}}).encode()

    with (
        WebProcess(tmp_path, database_url=url, redis_url=private_valkey.url) as process,
        private_valkey.stalled(),
    ):
        slowdown, began_s = measure_slowdown(), time.monotonic()
        answer = process.post(body)
        took_s = time.monotonic() - began_s

    assert answer.status == "accepted"
    # Shorter than the timeout of Redis itself.
    assert took_s < 1.7 * slowdown


# The answer to one question for each form that the simulator knows.
ANSWERS = {
    "event_name": (
        "name of the event",
        {"event": "event", "event_type": "event_type", "eventType": "eventType"},
    ),
    "event_id": (
        "id of the event",
        {"own": "its own", "run": "that of the run", "job": "that of the sync job"},
    ),
    "created_at": (
        "created_at",
        {"iso": "text (time with T and Z)", "space": "text (time with a space)"},
    ),
    "webhook_id": ("webhook_id", {"present": "yes", "missing": "no"}),
    "tenant_id": ("tenant_id", {"missing": "no", "present": "yes"}),
    "ids": (
        "account of a page",
        {
            "payload": "payload.integrated_account_id",
            "meta": "payload.meta.integrated_account_id",
            "nested": "payload.sync_job_run.integrated_account_id",
            "args": "payload.meta.args.*_integrated_account_id",
            "none": "none",
        },
    ),
    "method": (
        "method of a page",
        {"payload": "payload.method", "meta": "payload.meta.method", "none": "none"},
    ),
    "records": (
        "records of a page",
        {"list": "records: list", "one": "records: object", "record": "record: object"},
    ),
    "log_method": ("method in the log of runs", {"present": "yes", "missing": "no"}),
    "test_member": (
        "member that chooses the event",
        {
            "event_type": "event_type",
            "event_types": "event_types",
            "event_types_list": "event_types: a list",
            "event": "event",
            "type": "type",
            "none": "none",
        },
    ),
    "test_body": (
        "second test event",
        {"new": "another id", "fixed": "the same id and body"},
    ),
    "test_retry": (
        "retry",
        {
            "none": "none",
            "same_id": "the same id, another body",
            "same_body": "the same id and body",
            "new_id": "another id",
        },
    ),
    "test_failure": (
        "test of a failing receiver",
        {"422": "422", "502": "5XX, or no answer", "false": "success: false"},
    ),
}
RUN_PLACES = {
    "payload": "payload.sync_job_run_id",
    "meta": "payload.meta.sync_job_run_id",
    "nested": "payload.sync_job_run.id",
    "args": "payload.meta.sync_job_run_id",
    "none": "none",
}


def test_every_form_of_the_simulator_has_an_answer_of_its_own() -> None:
    assert {name: tuple(answers) for name, (_, answers) in ANSWERS.items()} == VARIANTS
    for name, (_, answers) in ANSWERS.items():
        assert len(set(answers.values())) == len(answers), name


@pytest.mark.parametrize("turn", range(6))
def test_the_probe_distinguishes_all_forms(web: WebProcess, tmp_path: Path, turn: int) -> None:
    """Each turn takes the next value of every variant."""
    chosen = {name: values[turn % len(values)] for name, values in VARIANTS.items()}
    encoding, with_format = ENCODINGS[turn % len(ENCODINGS)], turn % 2 == 0

    with simulated_truto(
        web,
        tmp_path,
        chosen,
        batch_size=1,
        encoding=encoding,
        with_format=with_format,
        batched_errors=turn % 2 == 1,
    ) as truto:
        answers = truto.answers(PAGE, ERROR, "sync_job_run:completed")

    expected = {question: by_value[chosen[name]] for name, (question, by_value) in ANSWERS.items()}
    expected["run of a page"] = expected["run of a record error"] = RUN_PLACES[chosen["ids"]]
    expected["signature header"] = "format=sha256,v=" if with_format else "v="
    expected["record errors of an event"] = "errors: a list" if turn % 2 else "one"
    if chosen["test_member"] == "none":
        # No event but `test` has arrived.
        for question in set(expected) - TEST_QUESTIONS:
            expected[question] = "not seen"
    assert {question: answers[question] for question in expected} == expected
    # Without "+" and "/" in it, a MAC is the same in both alphabets.
    assert answers["mac encoding"] in (encoding, encoding.replace("url", ""))
