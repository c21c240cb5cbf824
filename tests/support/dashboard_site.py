"""The whole service with a dashboard, a simulated Truto, and customers whose syncs are in several states."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

from app.clock import utc_now
from app.simulator.api import SimulatedApi
from app.simulator.plan import Plan
from app.simulator.session import SimulationSession, running_session
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.truto.events import read_envelope
from tests.support.seeded_store import SeededStore
from tests.support.service import Service, running_whole_service
from tests.support.simulated_runs import TOKEN, SessionGroup
from tests.support.web_process import SECRET

PASSWORD, READ_PASSWORD = "a-password-to-act", "a-password-to-read"
ACCOUNTS = 500
RECORDS_PER_PAGE = 4
# Resources of other groups have no route.
ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[[routes]]
resource = "crm/*"
sinks = ["main"]
"""
# Texts that would run, load or break something if a page did not escape them.
HOSTILE = (
    '"><script>document.title="executed"</script>'
    "<img src=x onerror=\"document.title='executed'\">"
    "</textarea></pre></title>{{ 7*7 }}\u202e\u0007'"
)
BROKEN_ACCOUNT, BROKEN_RUN = "customer-0317", "run-0317"
HOSTILE_ACCOUNT, HOSTILE_RUN = f"account/{HOSTILE}", f"run/..?a=b#c {HOSTILE}"


class DashboardSite:
    """A running service. dead_delivery: the only reason why BROKEN_ACCOUNT is incomplete."""

    def __init__(self, service: Service, sessions: SessionGroup, api: SimulatedApi) -> None:
        self.service = service
        self.store = service.store
        self.url = service.webhook_url.removesuffix("/webhooks/truto")
        self.seeded = SeededStore(service.store, service.settings["DATABASE_URL"])
        self.sessions = sessions
        self.api = api
        self.dead_delivery: UUID | None = None

    def add_customers(self, count: int = ACCOUNTS) -> None:
        """Add customers with a complete run each, except for BROKEN_ACCOUNT, which has a dead delivery.

        Workers write the runs meanwhile.
        """
        now = utc_now()
        bodies: dict[str, bytes] = {}
        for number in range(count):
            bodies |= _make_run(f"customer-{number:04}", f"run-{number:04}", now - timedelta(minutes=30))
        dead_body = bodies.pop(f"{BROKEN_RUN} page 1")
        [self.dead_delivery] = self._put([dead_body], now - timedelta(minutes=29))
        self.seeded.settle(self.dead_delivery, "dead", "worker_lost", records=0)
        self._put(list(bodies.values()), now - timedelta(minutes=30))

    def add_hostile_run(self) -> list[UUID]:
        """Add an incomplete run whose names, records and messages are scripts; return its deliveries."""
        now = utc_now()
        names = {"integrated_account_id": HOSTILE_ACCOUNT, "sync_job_run_id": HOSTILE_RUN}
        batch = {"resource": f"crm/{HOSTILE}", "method": "list"}
        stats = {batch["resource"]: {"list": {"fetched": 9, "persisted": 9}}}
        payloads: list[tuple[str, Mapping[str, Any]]] = [
            ("record", batch | {"records": [{"id": "1", "name": HOSTILE}]}),
            ("started", {"id": HOSTILE_RUN}),
            ("record", batch | {"records": [{"id": "2", "name": HOSTILE}, HOSTILE]}),
            ("record", {"resource": f"hr/{HOSTILE}", "method": HOSTILE, "records": [{"id": HOSTILE}]}),
            ("record_error", batch | {"error": {"message": HOSTILE * 40}}),
            ("completed", {"id": HOSTILE_RUN, "resource_stats": stats}),
        ]
        bodies = [
            _make_body(f"hostile {number} {HOSTILE}", event, now, {**names, **payload})
            for number, (event, payload) in enumerate(payloads)
        ]
        [dead] = self._put(bodies[:1], now)
        self.seeded.settle(dead, "dead", "internal_error", records=0)
        others = self._put(bodies[1:], now - timedelta(minutes=1))
        self.service.wait_until_settled()
        return [dead, *others]

    def add_unrouted(self, resource: str, count: int) -> list[UUID]:
        """Add deliveries that no route matches; return their ids."""
        now = utc_now()
        batch = {"resource": resource, "method": "list", "integrated_account_id": "unrouted"}
        bodies = [
            _make_body(f"{resource} {number}", "record", now, {**batch, "records": [{"id": number}]})
            for number in range(count)
        ]
        ids = self._put(bodies, now - timedelta(minutes=1))
        self.service.wait_until_settled()
        return ids

    @contextmanager
    def running_simulation(self, **options: Any) -> Iterator[SimulationSession]:
        """Simulate runs, which the simulated Truto knows, until the block ends."""
        plan = Plan(url=self.service.webhook_url, secret=SECRET, seed=uuid4().hex, **options)
        with running_session(
            plan, progress=lambda _: None, session_context=self.sessions.add_session
        ) as session:
            try:
                yield session
            finally:
                # Also if the test fails: the session waits for its runs.
                for run in session.runs:
                    run.stop()

    def _put(self, bodies: Sequence[bytes], received_at: datetime) -> list[UUID]:
        incoming = [
            IncomingDelivery(
                body,
                hashlib.sha256(body).digest(),
                received_at + timedelta(milliseconds=number),
                read_envelope(body),
            )
            for number, body in enumerate(bodies)
        ]
        return [receipt.delivery_id for receipt in Inbox(self.store).put(incoming)]


def _make_run(account: str, run: str, at: datetime) -> dict[str, bytes]:
    """Return the bodies of a run with two pages by their event ids."""
    names = {"integrated_account_id": account, "sync_job_run_id": run, "sync_job_id": f"job of {account}"}
    fetched = RECORDS_PER_PAGE * 2
    stats = {"crm/contacts": {"list": {"fetched": fetched, "persisted": fetched}}}
    events: dict[str, tuple[str, dict[str, Any]]] = {f"{run} started": ("started", {"id": run})}
    for page in range(2):
        records = [{"id": f"{run}-{page}-{number}", "name": "Ada"} for number in range(RECORDS_PER_PAGE)]
        batch = {"resource": "crm/contacts", "method": "list", "records": records}
        events[f"{run} page {page}"] = ("record", batch)
    events[f"{run} completed"] = ("completed", {"id": run, "resource_stats": stats})
    return {id_: _make_body(id_, event, at, {**names, **payload}) for id_, (event, payload) in events.items()}


def _make_body(event_id: str, event: str, at: datetime, payload: Mapping[str, Any]) -> bytes:
    envelope = {"id": event_id, "event": f"sync_job_run:{event}", "created_at": at.isoformat()}
    return json.dumps(envelope | {"payload": payload}).encode()


@contextmanager
def running_site(folder: Path, database_url: str, **settings: str) -> Iterator[DashboardSite]:
    """Start the service with both passwords, at a simulated Truto."""
    sessions = SessionGroup()
    with SimulatedApi(cast(SimulationSession, sessions), TOKEN) as api:
        access = {"DASHBOARD_PASSWORD": PASSWORD, "DASHBOARD_READ_PASSWORD": READ_PASSWORD}
        truto = {"TRUTO_API_URL": api.url, "TRUTO_API_TOKEN": TOKEN}
        with running_whole_service(
            folder, database_url, ROUTES, WEB_CONCURRENCY="1", **access, **truto, **settings
        ) as service:
            yield DashboardSite(service, sessions, api)
