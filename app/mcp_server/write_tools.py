"""Tools that act: replay, discard, cancel, pause, resume and stop. Only with --allow-write."""

import socket
from collections.abc import Callable, Sequence
from typing import Annotated, Any
from uuid import UUID

from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from app.clock import utc_now
from app.config.current_config import CurrentConfig
from app.database.engine import Database
from app.mcp_server.arguments import Pattern, Time, read_time
from app.mcp_server.read_tools import FailureKind
from app.mcp_server.result_models import ActionResult, OperationView
from app.replay.failure_set import FailureSet
from app.replay.operations import OperationRequest, cancel_operation
from app.runs.stop_request import STOP_ACTION, request_stop
from app.store.audit_log import AuditEntry, AuditLog
from app.store.bounded_count import ONE, BoundedCount
from app.store.delivery_filter import DeliveryFilter
from app.store.operations import Operations, Requester
from app.store.runs import Runs
from app.store.sink_states import SinkStates

_ACTOR = "mcp"
_REPEATABLE = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
_DESTRUCTIVE = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
_AT_TRUTO = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True
)
Expected = Annotated[
    int, Field(ge=1, description="Number of failures in the set. Another number there refuses the call.")
]
Because = Annotated[str, Field(min_length=1, max_length=500, description="The reason, which is stored.")]


class WriteTools:
    """Tools that change something. Every action is recorded before it is carried out."""

    def __init__(self, config: CurrentConfig, database: Database) -> None:
        self._config = config
        self._database = database
        self._requester = Requester(_ACTOR, socket.gethostname())

    @property
    def tools(self) -> Sequence[tuple[Callable[..., Any], ToolAnnotations]]:
        """All tools of this class, with the hints by which programs decide to ask their user."""
        return (
            (self.replay_failures, _REPEATABLE),
            (self.discard_failures, _DESTRUCTIVE),
            (self.cancel_operation, _DESTRUCTIVE),
            (self.pause_sink, _REPEATABLE),
            (self.resume_sink, _REPEATABLE),
            (self.stop_run, _AT_TRUTO),
        )

    def replay_failures(
        self,
        expected: Expected,
        *,
        kind: FailureKind = "deliveries",
        deliveries: Sequence[UUID] = (),
        integrated_account: str = "",
        run: str = "",
        resource: Pattern = "",
        reason: str = "",
        since: Time = "",
    ) -> OperationView:
        """Replay a set of failed deliveries, or of deliveries with dead records. Workers carry it out."""
        failures = _build_set(
            kind, deliveries, integrated_account, run, resource=resource, reason=reason, since=since
        )
        self._confirm("failed.replay", failures, expected)
        config = self._config.get().delivery_config
        operation = failures.start_replay(
            self._database, requester=self._requester, config=config, now=utc_now()
        )
        return OperationView.build(operation)

    def discard_failures(
        self,
        expected: Expected,
        because: Because,
        *,
        kind: FailureKind = "deliveries",
        deliveries: Sequence[UUID] = (),
        integrated_account: str = "",
        run: str = "",
        resource: Pattern = "",
        reason: str = "",
        since: Time = "",
    ) -> OperationView:
        """Discard a set of failed deliveries or dead records: they no longer count as failures."""
        failures = _build_set(
            kind, deliveries, integrated_account, run, resource=resource, reason=reason, since=since
        )
        number = self._confirm("failed.discard", failures, expected)
        operation = failures.start_discard(
            self._database, because=because, number=number, requester=self._requester, now=utc_now()
        )
        return OperationView.build(operation)

    def cancel_operation(self, operation: UUID) -> OperationView:
        """Cancel a replay or a discard. The part that is done stays."""
        operations = Operations(self._database)
        stored = operations.get(operation)
        if stored is None:
            raise ToolError(f"There is no operation {operation} here. List them with list_operations.")
        if not stored.is_finished:
            self._audit("operation.cancel", str(operation))
            cancel_operation(self._database, operation)
        cancelled = operations.get(operation)
        if cancelled is None:
            raise ToolError(f"The operation {operation} was deleted.")
        return OperationView.build(cancelled)

    def pause_sink(self, sink: str, reason: Because) -> ActionResult:
        """Pause a sink: workers hold its deliveries until it is resumed, and lose none."""
        self._check_sink(sink)
        states = SinkStates(self._database)
        if not states.is_paused(sink):
            self._audit("sink.pause", sink)
        by = f"{_ACTOR}@{self._requester.address}"
        is_changed = states.pause(sink, by=by, reason=reason, now=utc_now())
        message = "Paused; its deliveries are held." if is_changed else "The sink was paused before."
        return ActionResult(is_changed=is_changed, message=message)

    def resume_sink(self, sink: str) -> ActionResult:
        """Resume a paused sink: it gets the held deliveries in the order of their arrival."""
        self._check_sink(sink)
        states = SinkStates(self._database)
        if states.is_paused(sink):
            self._audit("sink.resume", sink)
        is_changed = states.resume(sink)
        message = "Resumed; it catches up." if is_changed else "The sink was not paused."
        return ActionResult(is_changed=is_changed, message=message)

    def stop_run(self, run: str) -> ActionResult:
        """Have a worker stop a run at Truto: it fetches no more records of this run."""
        runs = Runs(self._database)
        stored = runs.get(run)
        if stored is None:
            raise ToolError(f"There is no run {run} here. List the runs with list_runs.")
        if not self._config.get().settings.truto_api_token:
            raise ToolError("Runs cannot be stopped: set TRUTO_API_TOKEN for the workers, and restart them.")
        if stored.has_ended:
            return ActionResult(is_changed=False, message=f"The run has ended: {stored.status}.")
        if stored.stop_reason:
            message = "The stop was requested before; show_run has its result."
            return ActionResult(is_changed=False, message=message)
        self._audit(STOP_ACTION, run)
        is_changed = request_stop(runs, run)
        message = "A worker sends the stop to Truto within seconds; show_run has its result."
        return ActionResult(is_changed=is_changed, message=message)

    def _confirm(self, action: str, failures: FailureSet, expected: int) -> BoundedCount:
        """Record an action on a set, and return its number; raises ToolError if another one is expected."""
        number = failures.count(self._database)
        if not number:
            raise ToolError(
                "Nothing was changed: no failure is in the set. Others may have replayed or discarded it. "
                "List the failures with list_failures."
            )
        if not number.is_exact:
            raise ToolError(
                f"Nothing was changed: {number} failures are in the set, which are too many to confirm by "
                "their number. Choose a smaller set, such as one reason, resource, account or run; or let "
                "your user replay or discard all of them on the page Failed of the dashboard."
            )
        if number.number != expected:
            raise ToolError(
                f"Nothing was changed: {number} failures are in the set, and {expected:,} were expected. "
                f"Show the number to your user, then call again with expected={number.number}."
            )
        self._audit(action, OperationRequest(failures.delivery_filter).as_subject(), number)
        return number

    def _check_sink(self, sink: str) -> None:
        known = sorted(self._config.get().routes.sinks)
        if sink not in known:
            raise ToolError(f"There is no sink {sink}; known: {', '.join(known) or 'none'}.")

    def _audit(self, action: str, subject: str, number: BoundedCount = ONE) -> None:
        entry = AuditEntry(utc_now(), _ACTOR, self._requester.address, action, subject, number)
        AuditLog(self._database).add(entry)


def _build_set(
    kind: FailureKind,
    deliveries: Sequence[UUID],
    integrated_account: str,
    run: str,
    *,
    resource: str,
    reason: str,
    since: str,
) -> FailureSet:
    delivery_filter = DeliveryFilter(
        ids=tuple(deliveries),
        integrated_account_id=integrated_account,
        sync_job_run_id=run,
        resource=resource,
        reason=reason,
        since=read_time(since),
    )
    return FailureSet.build(delivery_filter, of_records=kind == "records", counted_at=utc_now())
