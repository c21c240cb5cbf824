"""Whether a run may start: the policies that have it refused, so that Truto stops it."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from app.config.routes import Routes
from app.errors import StoreUnavailable
from app.store.facts import RunSeen
from app.truto.coerce import as_object, as_text
from app.truto.events import BATCH, Envelope
from app.truto.runs import rank, read_run

_STARTED = "sync_job_run:started"
_RUNNING = "running"
# A run of which nothing was heard for so long is no reason to keep others waiting.
_LOST_AFTER = timedelta(hours=6)
_MOST_SHOWN = 200

log = structlog.get_logger()


class GateStore(Protocol):
    """The store as the gate asks it. Raises StoreUnavailable."""

    def start_unless_overlapping(self, run: RunSeen, *, heard_since: datetime) -> str | None:
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
        self._is_blind = False

    def refusal(self, envelope: Envelope, body: bytes, now: datetime) -> str | None:
        """Return why a run that starts is refused; None where it may go on, and for every other event."""
        if envelope.event != _STARTED:
            return None
        # What costs the least comes first, and last what notes the run as open: nothing may refuse it then.
        return (
            self._maintenance
            or self._refused_by_rule(envelope)
            or (self._unrouted(envelope, body) if self._routes.gate.unrouted else None)
            or self._refused_by_store(envelope, now)
        )

    def _refused_by_rule(self, envelope: Envelope) -> str | None:
        return self._routes.refusal(
            sync_job_id=envelope.sync_job_id,
            integrated_account_id=envelope.integrated_account_id,
            environment_id=envelope.environment_id,
        )

    def _unrouted(self, envelope: Envelope, body: bytes) -> str | None:
        for resource, method in _fetched(body):
            route = self._routes.match(
                event=BATCH,
                resource=resource,
                method=method,
                account=envelope.integrated_account_id,
                carries_records=True,
            )
            if route is None:
                shown = f"{resource[:_MOST_SHOWN]}, {method[:_MOST_SHOWN]}"
                return f"no route of the routes file matches what the run fetches ({shown})"
        return None

    def _refused_by_store(self, envelope: Envelope, now: datetime) -> str | None:
        try:
            reason = self._behind(now) or self._overlapping(envelope, now)
        except StoreUnavailable as error:
            # A store that did not answer is not asked again on the sender's time.
            if not self._is_blind:
                log.warning("gate.unchecked", error=str(error), then="runs may start without these checks")
            self._is_blind = True
            return None
        self._is_blind = False
        return reason

    def _behind(self, now: datetime) -> str | None:
        most_s = self._routes.gate.oldest_pending_s
        oldest = self._store.oldest_pending() if most_s else None
        if not most_s or not oldest or now - oldest <= timedelta(seconds=most_s):
            return None
        waited_s = (now - oldest).total_seconds()
        return f"a delivery has waited for {waited_s:.0f} s, oldest_pending_s is {most_s}"

    def _overlapping(self, envelope: Envelope, now: datetime) -> str | None:
        ids = (envelope.sync_job_run_id, envelope.sync_job_id, envelope.integrated_account_id)
        # Two runs that do not say what they belong to need not belong together.
        if not self._routes.gate.overlapping or not all(ids):
            return None
        other = self._store.start_unless_overlapping(_seen(envelope, now), heard_since=now - _LOST_AFTER)
        return f"run {other} of the same sync job and integrated account is still open" if other else None


def _fetched(body: bytes) -> Iterator[tuple[str, str]]:
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


def _seen(envelope: Envelope, now: datetime) -> RunSeen:
    return RunSeen(
        sync_job_run_id=envelope.sync_job_run_id,
        sync_job_id=envelope.sync_job_id,
        integrated_account_id=envelope.integrated_account_id,
        environment_id=envelope.environment_id,
        first_seen_at=now,
        webhook_id=envelope.webhook_id,
        status=_RUNNING,
        # Not `now` where it is missing: the same start, repeated, must not undo that it was refused.
        status_at=envelope.created_at,
        status_rank=rank(_RUNNING),
    )
