"""The gate: policies that refuse a run at its start."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from app.config.routes import GateConfig, RoutedEvent, Routes
from app.errors import StoreUnavailable
from app.logs import FaultLog
from app.store.models import RunUpdate
from app.truto.coerce import as_text
from app.truto.events import RECORD_EVENT, Envelope, read_payload
from app.truto.json_scanner import Pause, no_pause
from app.truto.runs import read_run, status_rank

_STARTED = "sync_job_run:started"
_RUNNING = "running"
# A run without events for so long no longer blocks others.
_ABANDONED_AFTER = timedelta(hours=6)
_MAX_SHOWN_CHARS = 200
# The web process reads a run: its time and memory are bounded.
_MAX_RUN_BYTES = 256 * 1024


class GateStore(Protocol):
    """The queries that the gate needs. Raises StoreUnavailable."""

    def start_unless_overlapping(self, run: RunUpdate, *, active_since: datetime) -> str | None:
        """Record the start of a run unless an overlapping run is open.

        Returns the id of the open run of the same job and account, if there is one. active_since: an open run
        without events since then no longer blocks others.
        """

    def oldest_pending(self) -> datetime | None:
        """Return the time at which the oldest pending delivery was received; None if there is none."""


class Gate:
    """Decides whether a run may start.

    read_routes: returns the current routes at once. maintenance: the reason to refuse every run, or "". An
    unavailable store refuses nothing: a failure of the receiver must not stop a run.
    """

    def __init__(self, read_routes: Callable[[], Routes], maintenance: str, store: GateStore) -> None:
        self._read_routes = read_routes
        self._maintenance = maintenance
        self._store = store
        self._fault = FaultLog("gate.skipped", "gate.recovered")

    def find_refusal_reason(
        self, envelope: Envelope, body: bytes, now: datetime, pause: Pause = no_pause
    ) -> str | None:
        """Return the reason to refuse a starting run, or None. pause: as in `read_envelope`."""
        if envelope.event != _STARTED:
            return None
        # Once: the rules of two files must not decide about one run.
        routes = self._read_routes()
        if not envelope.integrated_account_id:
            account = routes.find_webhook_account(envelope.webhook_id)
            envelope = replace(envelope, integrated_account_id=account)
        # The cheapest check comes first. The last one records the run as open: no check may follow it.
        return (
            self._maintenance
            or _check_rules(routes, envelope)
            or (_check_routes(routes, envelope, body, pause) if routes.gate.unrouted else None)
            or self._check_store(routes.gate, envelope, now)
        )

    def _check_store(self, config: GateConfig, envelope: Envelope, now: datetime) -> str | None:
        try:
            reason = self._check_backlog(config, now) or self._check_overlap(config, envelope, now)
        except StoreUnavailable as error:
            # The sender waits: a store that did not answer gets no second query.
            self._fault.add(str(error), effect="runs may start without store checks")
            return None
        self._fault.end()
        return reason

    def _check_backlog(self, config: GateConfig, now: datetime) -> str | None:
        limit_s = config.oldest_pending_s
        oldest = self._store.oldest_pending() if limit_s else None
        if not limit_s or not oldest or now - oldest <= timedelta(seconds=limit_s):
            return None
        waited_s = (now - oldest).total_seconds()
        return f"a delivery has waited for {waited_s:.0f} s, oldest_pending_s is {limit_s}"

    def _check_overlap(self, config: GateConfig, envelope: Envelope, now: datetime) -> str | None:
        ids = (envelope.sync_job_run_id, envelope.sync_job_id, envelope.integrated_account_id)
        # Runs without these ids cannot be known to belong together.
        if not config.overlapping or not all(ids):
            return None
        other = self._store.start_unless_overlapping(
            _build_run_update(envelope, now), active_since=now - _ABANDONED_AFTER
        )
        return f"run {other} of the same sync job and integrated account is still open" if other else None


def _check_rules(routes: Routes, envelope: Envelope) -> str | None:
    return routes.find_refusal_reason(
        sync_job_id=envelope.sync_job_id,
        integrated_account_id=envelope.integrated_account_id,
        environment_id=envelope.environment_id,
    )


def _check_routes(routes: Routes, envelope: Envelope, body: bytes, pause: Pause) -> str | None:
    for resource, method in _list_fetched_resources(body, pause):
        event = RoutedEvent(
            RECORD_EVENT,
            resource,
            method,
            envelope.integrated_account_id,
            envelope.environment_id,
            envelope.webhook_id,
        )
        if routes.find_route(event) is None:
            shown = f"{resource[:_MAX_SHOWN_CHARS]}, {method[:_MAX_SHOWN_CHARS]}"
            return f"no route of the routes file matches what the run fetches ({shown})"
    return None


def _list_fetched_resources(body: bytes, pause: Pause) -> Iterator[tuple[str, str]]:
    """Yield the resources and methods whose records a run will send, from its `started` event."""
    run = read_run(read_payload(body, _MAX_RUN_BYTES, pause))
    for node in (run.resources if run else None) or ():
        resource, method = as_text(node.get("resource")), as_text(node.get("method"))
        # A resource with persist=false is fetched for others and never sent: unconfirmed.
        if resource and method and node.get("persist") is not False:
            yield resource, method


def _build_run_update(envelope: Envelope, now: datetime) -> RunUpdate:
    return RunUpdate(
        sync_job_run_id=envelope.sync_job_run_id,
        sync_job_id=envelope.sync_job_id,
        integrated_account_id=envelope.integrated_account_id,
        environment_id=envelope.environment_id,
        first_seen_at=now,
        webhook_id=envelope.webhook_id,
        status=_RUNNING,
        # Never `now`: a repeated start without a time must not undo its refusal.
        status_at=envelope.created_at,
        status_rank=status_rank(_RUNNING),
    )
