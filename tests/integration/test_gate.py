"""Refusals of starting runs, over real HTTP to real gunicorn."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

import httpx
import pytest
from redis import Redis
from sqlalchemy import text

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import DeliveryResult, DeliveryState, StateChange
from app.store.results import DeliveryResults
from app.store.runs import Runs
from app.truto.signature import sign
from tests.support.postgres import PostgresServer
from tests.support.redis_keys import open_spool
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, ParsedResponse, WebProcess, parse_response

ROUTES = (
    '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n\n'
    '[[routes]]\nresource = "crm/*"\nsinks = ["main"]\n\n[[routes]]\nresource = "logs"\nsinks = []\n\n'
)
POLICIES = '[[allow]]\nenvironment_id = "live"\n\n[[refuse]]\nintegrated_account_id = "sandbox-*"\nreason = "a sandbox"\n\n'
GATE = "[gate]\nunrouted = true\noverlapping = true\noldest_pending_s = 3600\n"


class Serve(Protocol):
    """Starts the web process with these routes and settings."""

    def __call__(self, routes: str, **settings: str) -> WebProcess: ...


@pytest.fixture
def store(private_postgres: PostgresServer) -> Iterator[Database]:
    with private_postgres.database() as url:
        engine = open_database(url)
        migrate(engine)
        # Idle connections would end with a server that a test kills.
        engine.close()
        yield engine
        engine.close()


@pytest.fixture
def serve(tmp_path: Path, store: Database, private_valkey: ValkeyServer) -> Iterator[Serve]:
    url = store.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    with ExitStack() as stack:

        def start(routes: str, **settings: str) -> WebProcess:
            file = tmp_path / f"{uuid4()}.toml"
            file.write_text(ROUTES + routes)
            process = WebProcess(
                tmp_path, database_url=url, redis_url=private_valkey.url, ROUTES_FILE=str(file), **settings
            )
            return stack.enter_context(process)

        yield start


@pytest.fixture
def runs_table(store: Database) -> Runs:
    return Runs(store)


def event(name: str, run: str, *, account: str = "a", environment: str = "live", **more: object) -> bytes:
    payload = {
        "id": run,
        "sync_job_run_id": run,
        "sync_job_id": "j",
        "integrated_account_id": account,
        **more,
    }
    # The current time: events of a run count by their time.
    ids = {"id": str(uuid4()), "created_at": datetime.now(UTC).isoformat(), "environment_id": environment}
    return json.dumps({**ids, "event": f"sync_job_run:{name}", "payload": payload}).encode()


def summarize(answer: ParsedResponse) -> tuple[int, str, str]:
    return answer.http_status, answer.status, answer.message


def post_at_once(webs: list[WebProcess], bodies: list[bytes]) -> list[ParsedResponse]:
    def post(number: int) -> ParsedResponse:
        headers = {"X-Truto-Signature": sign(bodies[number], SECRET)}
        url = f"{webs[number % len(webs)].url}/webhooks/truto"
        return parse_response(httpx.post(url, content=bodies[number], headers=headers, timeout=60))

    with ThreadPoolExecutor(len(bodies)) as senders:
        return list(senders.map(post, range(len(bodies))))


def make_old(store: Database) -> None:
    with store.engine.begin() as connection:
        connection.execute(
            text("UPDATE rapidbridge_deliveries SET received_at = received_at - interval '2 hours'")
        )


def settle_all(store: Database) -> None:
    with store.engine.connect() as connection:
        ids = connection.execute(text("SELECT id FROM rapidbridge_deliveries WHERE settled_at IS NULL"))
        now = datetime.now(UTC)
        verdicts = [StateChange(UUID(str(id_)), DeliveryState.SETTLED, 0, "", now) for id_ in ids.scalars()]
    DeliveryResults(store).save([DeliveryResult(verdict) for verdict in verdicts], now=now)


def test_every_policy_refuses_its_runs_with_a_reason_and_no_others(
    serve: Serve, store: Database, runs_table: Runs
) -> None:
    web = serve(POLICIES + GATE)
    unrouted = [{"resource": "logs", "method": "list"}, {"resource": "erp/bills", "method": "get"}]
    routed = [{"resource": "crm/deals", "method": "list"}, {"name": "transform"}]

    refused = {
        "sandbox": event("started", "sandbox", account="sandbox-1"),
        "test": event("started", "test", environment="test"),
        "unrouted": event("started", "unrouted", resources=unrouted),
    }
    answers = {run: summarize(web.post(body)) for run, body in refused.items()}
    first = web.post(event("started", "first", resources=routed))
    second = web.post(event("started", "second", resources=routed))
    another = web.post(event("started", "another", account="b", resources="odd"))
    make_old(store)
    late = web.post(event("started", "late", account="c"))

    assert answers == {
        "sandbox": (400, "refused", "a sandbox"),
        "test": (400, "refused", "no [[allow]] of the routes file matches this run"),
        "unrouted": (
            400,
            "refused",
            "no route of the routes file matches what the run fetches (erp/bills, get)",
        ),
    }
    assert summarize(first) == summarize(another) == (200, "accepted", "")
    overlaps = "run first of the same sync job and integrated account is still open"
    assert summarize(second) == (400, "refused", overlaps)
    assert late.http_status == 400
    assert late.message.startswith("a delivery has waited for 720")
    stored = {
        run.sync_job_run_id: (run.status, run.refusal_reason)
        for run in runs_table.find_runs({}, since=None, limit=20)
    }
    assert stored == {
        **{run: ("refused", message) for run, (_, _, message) in answers.items()},
        "first": ("running", ""),
        "second": ("refused", overlaps),
        "another": ("running", ""),
        "late": ("refused", late.message),
    }
    assert f"event=delivery.refused delivery={second.delivery}" in web.log
    assert overlaps in web.log


def test_in_maintenance_only_starts_are_refused(serve: Serve) -> None:
    web = serve("", MAINTENANCE="the warehouse is moving")
    names = ["created", "record", "record_error", "updated", "rate_limited", "completed", "failed", "stopped"]

    answer = web.post(event("started", "r"))
    others = [web.post(event(name, "r", resource="crm/deals", method="list", records=[])) for name in names]

    assert summarize(answer) == (400, "refused", "the warehouse is moving")
    assert {summarize(other) for other in others} == {(200, "accepted", "")}


def test_the_first_decision_about_a_start_holds_after_policies_change(
    serve: Serve, store: Database, runs_table: Runs
) -> None:
    open_, closed = serve(GATE), serve("", MAINTENANCE="closed")
    let_in, refused = event("started", "in"), event("started", "out", account="b")

    first = [open_.post(let_in), closed.post(refused)]
    again = [closed.post(let_in), open_.post(refused)]
    # The decisions also hold after the run has ended and its deliveries are settled.
    open_.post(event("completed", "in", status="completed"))
    settle_all(store)
    last = [closed.post(let_in), open_.post(refused)]

    assert [summarize(answer) for answer in first] == [(200, "accepted", ""), (400, "refused", "closed")]
    held = [(200, "duplicate", ""), (400, "refused", "closed")]
    assert [summarize(answer) for answer in again] == [summarize(answer) for answer in last] == held
    runs = {
        run.sync_job_run_id: (run.status, run.refusal_reason)
        for run in runs_table.find_runs({}, since=None, limit=9)
    }
    assert runs == {"in": ("running", ""), "out": ("refused", "closed")}
    # A refused run blocks no other.
    assert open_.post(event("started", "next", account="b")).http_status == 200


def test_concurrent_repeats_of_a_start_get_one_decision(serve: Serve) -> None:
    webs = [serve(GATE), serve("", MAINTENANCE="closed")]

    answers = post_at_once(webs, [event("started", "r")] * 20)

    assert len({(answer.http_status, answer.message) for answer in answers}) == 1


def test_of_overlapping_runs_that_start_at_once_one_is_accepted(serve: Serve) -> None:
    web = serve("[gate]\noverlapping = true\n", WEB_CONCURRENCY="2")
    runs = [f"r{number}" for number in range(20)]

    answers = post_at_once([web], [event("started", run) for run in runs])

    assert sorted(answer.http_status for answer in answers) == [200] + [400] * 19
    [winner] = [run for run, answer in zip(runs, answers, strict=True) if answer.http_status == 200]
    reason = f"run {winner} of the same sync job and integrated account is still open"
    assert {answer.message for answer in answers if answer.http_status == 400} == {reason}
    others = post_at_once([web], [event("record", run, resource="crm/deals", method="list") for run in runs])
    assert {answer.http_status for answer in others} == {200}


def test_dead_idle_connections_do_not_disable_the_gate(serve: Serve, store: Database) -> None:
    web = serve(GATE)
    web.post(event("started", "first"))
    with store.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )

    assert web.post(event("started", "second")).http_status == 400


def test_checks_that_wait_delay_no_delivery_and_refuse_nothing(serve: Serve, store: Database) -> None:
    web = serve("[gate]\noverlapping = true\n")
    started = [event("started", f"r{number}") for number in range(12)]
    with store.engine.begin() as connection, ThreadPoolExecutor(1) as sender:
        # As if another process hung while it accepts a run of this job and account.
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('j/a', 0))"))
        starting = sender.submit(post_at_once, [web], started)
        answers = [web.post(event("record", "r", resource="crm/deals", records=[])) for _ in range(50)]
        was_held = not starting.done()
        let_in = starting.result()

    assert was_held
    assert {summarize(answer) for answer in answers + let_in} == {(200, "accepted", "")}
    assert "spooled" not in web.log


@pytest.mark.parametrize("way", ["dead", "stalled"])
def test_an_unavailable_store_refuses_only_by_the_routes_file(
    serve: Serve, private_postgres: PostgresServer, store: Database, private_redis: Redis, way: str
) -> None:
    web = serve(POLICIES + GATE)
    assert web.post(event("started", "before")).http_status == 200
    bodies = [event("started", run) for run in ("one", "two")]
    sandbox = event("started", "s", account="sandbox-1")
    if way == "dead":
        private_postgres.kill()
        try:
            answers = [web.post(body) for body in [*bodies, sandbox]]
        finally:
            private_postgres.start()
    else:
        with private_postgres.stalled():
            answers = [web.post(body) for body in [*bodies, sandbox]]

    assert [summarize(answer) for answer in answers] == [(200, "accepted", "")] * 2 + [
        (400, "refused", "a sandbox")
    ]
    assert web.log.count("event=gate.skipped") == 1
    open_spool(private_redis, store).drain(Inbox(store).put)
    wait_until(
        lambda: web.post(event("updated", "before")).http_status == 200 and "store.recovered" in web.log
    )
    # Unchecked runs stay accepted, and the refused run is stored as refused.
    assert [summarize(web.post(body))[:2] for body in bodies] == [(200, "duplicate")] * 2
    assert web.post(event("started", "three")).http_status == 400
    run = Runs(store).get("s")
    assert run is not None
    assert (run.status, run.refusal_reason) == ("refused", "a sandbox")
