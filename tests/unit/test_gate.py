"""The gate: its policies, their order, and checks that fail."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.config.routes_file import read_routes
from app.errors import StoreUnavailable
from app.runs.gate import Gate
from app.store.models import RunUpdate
from app.truto.events import read_envelope

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
SINK = '[sinks.main]\ntype = "sql"\nurl = "sqlite:///x"\n'
ROUTES = SINK + (
    '[[routes]]\nresource = "crm/*"\nmethod = "list"\nsinks = ["main"]\n'
    '[[routes]]\nresource = "logs"\nsinks = []\n'
    '[[routes]]\nresource = "hr/*"\nintegrated_account_id = "acme"\nsinks = ["main"]\n'
    '[[routes]]\nevent = "record:*"\nresource = "pushed"\nsinks = ["main"]\n'
)
EVERYTHING = "[gate]\nunrouted = true\noverlapping = true\noldest_pending_s = 60\n"


@dataclass
class FakeGateStore:
    """A gate store with preset answers, which records every query."""

    other: str | None = None
    waited_s: float | None = None
    is_away: bool = False
    checks: list[str] = field(default_factory=list)
    opened: list[tuple[RunUpdate, datetime]] = field(default_factory=list)

    def start_unless_overlapping(self, run: RunUpdate, *, active_since: datetime) -> str | None:
        self._note("overlapping")
        self.opened.append((run, active_since))
        return self.other

    def oldest_pending(self) -> datetime | None:
        self._note("backlog")
        return None if self.waited_s is None else NOW - timedelta(seconds=self.waited_s)

    def _note(self, check: str) -> None:
        self.checks.append(check)
        if self.is_away:
            raise StoreUnavailable("gone fishing")

    def gate(self, routes: str, maintenance: str = "") -> Gate:
        read = read_routes(routes, source="routes.toml", variables={})
        return Gate(lambda: read, maintenance, self)


@pytest.fixture
def gate_store() -> FakeGateStore:
    return FakeGateStore()


def make_start(event: str = "sync_job_run:started", **payload: Any) -> bytes:
    run_fields = {"id": "r", "sync_job_id": "j", "integrated_account_id": "a", **payload}
    created_at, ids = "2026-11-24T11:59:00Z", {"webhook_id": "w", "environment_id": "live"}
    return json.dumps(
        {"id": "e", "event": event, "created_at": created_at, **ids, "payload": run_fields}
    ).encode()


def fetching(*resources: object, **payload: Any) -> bytes:
    return make_start(resources=list(resources), **payload)


def node(resource: str, method: str = "list", **more: object) -> dict[str, object]:
    return {"resource": resource, "method": method, **more}


def check_start(gate: Gate, body: bytes) -> str | None:
    return gate.find_refusal_reason(read_envelope(body), body, NOW)


def test_without_policies_every_run_may_start_and_nothing_is_queried(gate_store: FakeGateStore) -> None:
    assert check_start(gate_store.gate(SINK), fetching(node("anything"))) is None
    assert gate_store.checks == []


def test_only_started_events_are_refused(gate_store: FakeGateStore) -> None:
    gate = gate_store.gate(f"{ROUTES}{EVERYTHING}", "we are moving")

    names = ["created", "updated", "record", "record_error", "completed", "failed", "stopped", "started:"]

    assert {check_start(gate, make_start(f"sync_job_run:{name}")) for name in names} == {None}
    assert check_start(gate, make_start()) == "we are moving"
    assert gate_store.checks == []


def test_policies_are_checked_in_a_fixed_order(gate_store: FakeGateStore) -> None:
    refuse = '[[refuse]]\nsync_job_id = "j"\nreason = "not j"\n'
    allow = '[[allow]]\nenvironment_id = "test"\n'
    gate_store.waited_s, gate_store.other = 61, "r0"
    body = fetching(node("crm/deals"), node("erp/bills", "get"))
    routes = [
        ROUTES + allow + refuse + EVERYTHING,
        ROUTES + allow + EVERYTHING,
        ROUTES + EVERYTHING,
        ROUTES + EVERYTHING.replace("unrouted = true", ""),
        ROUTES + "[gate]\noverlapping = true\n",
    ]

    reasons = [
        check_start(gate_store.gate(routes[0], "we are moving"), body),
        *(check_start(gate_store.gate(text), body) for text in routes),
    ]

    assert reasons == [
        "we are moving",
        "not j",
        "no [[allow]] of the routes file matches this run",
        "no route of the routes file matches what the run fetches (erp/bills, get)",
        "a delivery has waited for 61 s, oldest_pending_s is 60",
        "run r0 of the same sync job and integrated account is still open",
    ]
    assert gate_store.checks == ["backlog", "overlapping"]


@pytest.mark.parametrize(
    ("body", "unrouted"),
    [
        (fetching(node("crm/deals"), node("logs", "anything")), ""),
        (fetching(node("crm/deals", "get")), "crm/deals, get"),
        (fetching(node("hr/people"), integrated_account_id="acme"), ""),
        (fetching(node("hr/people"), integrated_account_id="other"), "hr/people, list"),
        # A route for another event is none for batches.
        (fetching(node("pushed")), "pushed, list"),
        (fetching(node("x", persist=False), node("y", persist=None)), "y, list"),
        (fetching({"name": "n", "type": "transform"}, {"resource": "x"}, {"method": "list"}), ""),
        (fetching(None, 7, "x", [], {}, {"resource": {}, "method": []}, node("")), ""),
        (fetching(), ""),
        (make_start(), ""),
        (make_start(resources={"resource": "x", "method": "list"}), ""),
        (make_start(resources="x"), ""),
        (make_start(resources=None, id=None, sync_job_run={"id": "r"}), ""),
        (fetching(node("x\0")), "x\ufffd, list"),
        (fetching(node("x\ud800"), node("y")), "x\ufffd, list"),
        (fetching(node("x" * 5000, "y" * 5000)), f"{'x' * 200}, {'y' * 200}"),
        (b'{"event": "sync_job_run:started", "payload": []}', ""),
        (b'{"event": "sync_job_run:started"}', ""),
        (b'{"event": "sync_job_run:started", "payload": {"id": NaN, "resources": [1e999]}}', ""),
        (b'\xef\xbb\xbf{"event": "sync_job_run:started", "payload": {"id": "\xff", "resources": [1]}}', ""),
        (make_start(odd={"a": 0}).replace(b'"odd": {"a": 0}', b'"od\\ud800d": {"a": 00}'), ""),
        (make_start().replace(b'"a"}', b'"a", "resources": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), ""),
    ],
)  # fmt: skip
def test_a_start_is_routed_like_its_batches(gate_store: FakeGateStore, body: bytes, unrouted: str) -> None:
    reason = check_start(gate_store.gate(f"{ROUTES}[gate]\nunrouted = true\n"), body)

    expected = f"no route of the routes file matches what the run fetches ({unrouted})" if unrouted else None
    assert reason == expected


@pytest.mark.parametrize(("waited_s", "is_refused"), [(None, False), (-5, False), (60, False), (60.1, True)])
def test_runs_are_refused_while_the_oldest_pending_delivery_is_too_old(
    gate_store: FakeGateStore, waited_s: float | None, *, is_refused: bool
) -> None:
    gate_store.waited_s = waited_s

    assert (
        check_start(gate_store.gate(f"{SINK}[gate]\noldest_pending_s = 60\n"), make_start()) is not None
    ) is is_refused


def test_a_run_that_may_start_is_recorded_as_open(gate_store: FakeGateStore) -> None:
    gate = gate_store.gate(f"{SINK}[gate]\noverlapping = true\n")

    assert check_start(gate, make_start()) is None

    made_at = NOW - timedelta(minutes=1)
    run_update = RunUpdate("r", "j", "a", "live", NOW, "w", "running", made_at, 1)
    assert gate_store.opened == [(run_update, NOW - timedelta(hours=6))]


def test_the_account_of_a_webhook_counts_for_a_run_that_names_none(gate_store: FakeGateStore) -> None:
    rules = '[[webhooks]]\nid = "w"\naccount = "A"\n[[refuse]]\nintegrated_account_id = "A"\nreason = "no"\n'
    gate = gate_store.gate(SINK + rules)

    def check(**members: str) -> str | None:
        payload = {"id": "r", **members}
        body = json.dumps({"event": "sync_job_run:started", "webhook_id": "w", "payload": payload}).encode()
        return gate.find_refusal_reason(read_envelope(body), body, NOW)

    assert check() == "no"
    assert check(integrated_account_id="B") is None


@pytest.mark.parametrize("unknown", ["id", "sync_job_id", "integrated_account_id"])
def test_runs_with_missing_ids_do_not_overlap(gate_store: FakeGateStore, unknown: str) -> None:
    gate_store.other = "r0"

    assert (
        check_start(gate_store.gate(f"{SINK}[gate]\noverlapping = true\n"), make_start(**{unknown: ""}))
        is None
    )
    assert gate_store.checks == []


def warnings_of(act: Callable[[], object]) -> list[Any]:
    with capture_logs() as logs:
        act()
    return [line["error"] for line in logs if line["event"] == "gate.skipped"]


def test_an_unavailable_store_refuses_nothing_and_is_logged_once_an_outage(gate_store: FakeGateStore) -> None:
    gate = gate_store.gate(f"{ROUTES}{EVERYTHING}")
    gate_store.is_away, gate_store.other, gate_store.waited_s = True, "r0", 1000

    def start_three() -> None:
        assert {check_start(gate, make_start()) for _ in range(3)} == {None}

    assert warnings_of(start_three) == ["gone fishing"]
    # A store that does not answer gets one query a start.
    assert gate_store.checks == ["backlog"] * 3

    gate_store.is_away = False
    assert check_start(gate, make_start()) is not None
    gate_store.is_away = True
    assert warnings_of(start_three) == ["gone fishing"]


def test_checks_without_the_store_still_refuse_during_an_outage(gate_store: FakeGateStore) -> None:
    gate_store.is_away = True

    assert check_start(gate_store.gate(f"{ROUTES}{EVERYTHING}"), fetching(node("erp/bills"))) is not None
