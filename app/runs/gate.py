"""Whether a run may start: the policies that have it refused, so that Truto stops it."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from app.config.routes import Routes
from app.errors import StoreUnavailable
from app.store.models import RunUpdate
from app.truto.coerce import as_object, as_text
from app.truto.events import RECORD_EVENT, Envelope
from app.truto.runs import read_run, status_rank

_STARTED = "sync_job_run:started"
_RUNNING = "running"
# A run of which nothing was heard for so long is no reason to keep others waiting.
_LOST_AFTER = timedelta(hours=6)
_MAX_SHOWN_CHARS = 200

log = structlog.get_logger()


class GateStore(Protocol):
    """The store as the gate asks it. Raises StoreUnavailable."""

    def start_unless_overlapping(self, run: RunUpdate, *, heard_since: datetime) -> str | None:
        """Record that a run starts; return the id of another open run of its job and account instead.

        heard_since: an open run without events since then no longer blocks others.
        """

    def oldest_pending(self) -> datetime | None:
        """Return when the oldest pending delivery arrived; None if nothing is pending."""


class Gate:
    """Decides whether a run may start.

    maintenance: the reason to refuse every run, or "". An error of the store refuses nothing: no fault of
    ours may stop a run.
    """

    def __init__(self, routes: Routes, maintenance: str, store: GateStore) -> None:
        self._routes = routes
        self._maintenance = maintenance
        self._store = store
        self._is_store_unavailable = False

    def find_refusal_reason(self, envelope: Envelope, body: bytes, now: datetime) -> str | None:
        """Return why a run that starts is refused; None where it may go on, and for every other event."""
        if envelope.event != _STARTED:
            return None
        # What costs the least comes first, and last what notes the run as open: nothing may refuse it then.
        return (
            self._maintenance
            or self._check_rules(envelope)
            or (self._check_routes(envelope, body) if self._routes.gate.unrouted else None)
            or self._check_store(envelope, now)
        )

    def _check_rules(self, envelope: Envelope) -> str | None:
        return self._routes.find_refusal_reason(
            sync_job_id=envelope.sync_job_id,
            integrated_account_id=envelope.integrated_account_id,
            environment_id=envelope.environment_id,
        )

    def _check_routes(self, envelope: Envelope, body: bytes) -> str | None:
        for resource, method in _list_fetched_resources(body):
            route = self._routes.find_route(
                event=RECORD_EVENT,
                resource=resource,
                method=method,
                account=envelope.integrated_account_id,
                has_records=True,
            )
            if route is None:
                shown = f"{resource[:_MAX_SHOWN_CHARS]}, {method[:_MAX_SHOWN_CHARS]}"
                return f"no route of the routes file matches what the run fetches ({shown})"
        return None

    def _check_store(self, envelope: Envelope, now: datetime) -> str | None:
        try:
            reason = self._check_backlog(now) or self._check_overlap(envelope, now)
        except StoreUnavailable as error:
            # A store that did not answer is not asked again on the sender's time.
            if not self._is_store_unavailable:
                log.warning("gate.unchecked", error=str(error), then="runs may start without these checks")
            self._is_store_unavailable = True
            return None
        self._is_store_unavailable = False
        return reason

    def _check_backlog(self, now: datetime) -> str | None:
        limit_s = self._routes.gate.oldest_pending_s
        oldest = self._store.oldest_pending() if limit_s else None
        if not limit_s or not oldest or now - oldest <= timedelta(seconds=limit_s):
            return None
        waited_s = (now - oldest).total_seconds()
        return f"a delivery has waited for {waited_s:.0f} s, oldest_pending_s is {limit_s}"

    def _check_overlap(self, envelope: Envelope, now: datetime) -> str | None:
        ids = (envelope.sync_job_run_id, envelope.sync_job_id, envelope.integrated_account_id)
        # Two runs that do not say what they belong to need not belong together.
        if not self._routes.gate.overlapping or not all(ids):
            return None
        other = self._store.start_unless_overlapping(
            _build_run_update(envelope, now), heard_since=now - _LOST_AFTER
        )
        return f"run {other} of the same sync job and integrated account is still open" if other else None


def _list_fetched_resources(body: bytes) -> Iterator[tuple[str, str]]:
    """Yield each resource and method of which a run will send records, as far as its start says so."""
    try:
        run = read_run(as_object(json.loads(body)).get("payload"))
    except (ValueError, RecursionError):
        return
    for node in (run.resources if run else None) or ():
        resource, method = as_text(node.get("resource")), as_text(node.get("method"))
        # What is not persisted is fetched for others to depend on, and sent to nobody: unconfirmed.
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
        # Not `now` where it is missing: the same start, repeated, must not undo that it was refused.
        status_at=envelope.created_at,
        status_rank=status_rank(_RUNNING),
    )
