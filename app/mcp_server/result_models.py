"""Results of the tools. Their fields become the schema that an agent reads."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from app.checks.check_result import CheckResult
from app.replay.operations import OperationRequest
from app.runs.gap_reasons import explain_gap
from app.runs.reconciliation import GapReason, ResourceCounts
from app.runs.run_overview import RunOverview
from app.runs.stop_request import RunStop
from app.runs.sync_reasons import explain_state
from app.store.accounts import Account, Sync
from app.store.bounded_count import BoundedCount
from app.store.delivery_detail import DeadRecordCount, DeliveryDetail, DeliveryRow
from app.store.delivery_filter import DeliverySummary, FailureCause
from app.store.failure_groups import FailureCount
from app.store.models import DeliveryAttempt, SinkOutcome
from app.store.operations import Operation
from app.store.reasons import explain
from app.store.run_list import ListedRun
from app.store.run_summaries import RunSummary
from app.store.sink_status import SinkStatus


class Counts(BaseModel):
    """Numbers of records. fetched: by Truto's count, None if it is unknown. missing: fetched, not arrived."""

    fetched: int | None
    arrived: int
    written: int
    dead: int
    missing: int
    record_errors: int

    @classmethod
    def build(cls, sums: RunSummary | Account) -> "Counts":
        """Return the counts of a run, or of all syncs of an account."""
        return cls(**{name: getattr(sums, name) for name in cls.model_fields})


class AccountView(BaseModel):
    """An account with the last runs of its syncs. reason: of its state; "" if there is none."""

    integrated_account: str
    state: str
    reason: str
    syncs: int
    last_run_at: datetime | None
    newest_record_at: datetime | None
    records: Counts

    @classmethod
    def build(cls, account: Account, *, now: datetime) -> "AccountView":
        """Return an account, explained."""
        return cls(
            integrated_account=account.integrated_account_id,
            state=account.state,
            reason=explain_state(account.worst_sync, now=now),
            syncs=account.syncs,
            last_run_at=account.last_run_at,
            newest_record_at=account.newest_record_at,
            records=Counts.build(account),
        )


class AccountList(BaseModel):
    """Accounts, those in need of attention first. numbers: of accounts by state, with the same filter."""

    accounts: list[AccountView]
    numbers: dict[str, int]
    next_cursor: str | None


class SyncView(BaseModel):
    """The sync of an account by one job. expected_at: its next run is late from then on."""

    sync_job: str
    state: str
    reason: str
    last_run: str
    last_run_at: datetime | None
    newest_record_at: datetime | None
    expected_at: datetime | None
    records: Counts

    @classmethod
    def build(cls, sync: Sync, *, now: datetime) -> "SyncView":
        """Return a sync, explained."""
        return cls(
            sync_job=sync.sync_job_id,
            state=sync.state,
            reason=explain_state(sync, now=now),
            last_run=sync.last_run_id,
            last_run_at=sync.last_run_at,
            newest_record_at=sync.newest_record_at,
            expected_at=sync.expected_at,
            records=Counts.build(sync.summary),
        )


class AccountDetail(BaseModel):
    """The syncs of an account, the worst first. is_partial: there are more."""

    integrated_account: str
    syncs: list[SyncView]
    is_partial: bool


class ListedRunView(BaseModel):
    """A run with the sums that workers counted last."""

    run: str
    sync_job: str
    integrated_account: str
    environment: str
    status: str
    verdict: str
    gaps: list[str]
    first_seen_at: datetime
    counted_at: datetime | None
    records: Counts

    @classmethod
    def build(cls, run: ListedRun) -> "ListedRunView":
        """Return a run, explained."""
        return cls(
            run=run.sync_job_run_id,
            sync_job=run.sync_job_id,
            integrated_account=run.integrated_account_id,
            environment=run.environment_id,
            status=run.status,
            verdict=run.summary.verdict,
            gaps=[explain_gap(GapReason(code, records)) for code, records in run.summary.gap_reasons],
            first_seen_at=run.first_seen_at,
            counted_at=run.summarized_at,
            records=Counts.build(run.summary),
        )


class RunList(BaseModel):
    """Runs, newest first. is_partial: the search stopped; next_cursor continues it."""

    runs: list[ListedRunView]
    next_cursor: str | None
    is_partial: bool


class GapView(BaseModel):
    """Records that a run's sinks lack. records: None if their number is unknown."""

    resource: str
    method: str
    code: str
    records: int | None
    explanation: str

    @classmethod
    def build_all(cls, resources: Iterable[ResourceCounts], summary: RunSummary) -> "list[GapView]":
        """Return the gaps of all resources; those of the summary if there are no resources."""
        gaps = [
            (counts.resource, counts.method, gap) for counts in resources for gap in counts.gap_reasons
        ] or [("", "", GapReason(code, records)) for code, records in summary.gap_reasons]
        return [
            cls(
                resource=resource,
                method=method,
                code=gap.code,
                records=gap.records,
                explanation=explain_gap(gap),
            )
            for resource, method, gap in gaps
        ]


class ResourceView(BaseModel):
    """Records of one resource and method of a run."""

    resource: str
    method: str
    fetched: int | None
    arrived: int
    written: int
    dead: int
    missing: int
    errors: int


class RunView(BaseModel):
    """A run and its reconciliation. resources: empty for a very large run, whose sums are in `records`."""

    run: str
    sync_job: str
    integrated_account: str
    environment: str
    status: str
    verdict: str
    first_seen_at: datetime
    last_seen_at: datetime | None
    reconciled_at: datetime | None
    stop: RunStop
    records: Counts
    resources: list[ResourceView]
    gaps: list[GapView]

    @classmethod
    def build(cls, overview: RunOverview) -> "RunView":
        """Return a run without Truto's description and its error messages, which may quote a record."""
        run, summary = overview.run, overview.summary
        resources = overview.reconciliation.resources if overview.reconciliation else ()
        return cls(
            run=run.sync_job_run_id,
            sync_job=run.sync_job_id,
            integrated_account=run.integrated_account_id,
            environment=run.environment_id,
            status=run.status,
            verdict=summary.verdict,
            first_seen_at=run.first_seen_at,
            last_seen_at=run.last_seen_at,
            reconciled_at=run.reconciled_at,
            stop=overview.stop,
            records=Counts.build(summary),
            resources=[
                ResourceView(**{name: getattr(counts, name) for name in ResourceView.model_fields})
                for counts in resources
            ],
            gaps=GapView.build_all(resources, summary),
        )


class DeliveryList(BaseModel):
    """Deliveries, newest first. is_partial: the search stopped; next_cursor continues it."""

    deliveries: Sequence[DeliverySummary]
    next_cursor: str | None
    is_partial: bool


class DeliveryView(BaseModel):
    """A delivery without its body. meaning, advice: of its state and reason."""

    delivery: DeliveryRow
    outcomes: Sequence[SinkOutcome]
    attempts: Sequence[DeliveryAttempt]
    dead_records: Sequence[DeadRecordCount]
    replayed_at: datetime | None
    meaning: str
    advice: str

    @classmethod
    def build(cls, detail: DeliveryDetail) -> "DeliveryView":
        """Return a delivery, explained."""
        explanation = explain(detail.delivery.state, detail.delivery.reason)
        return cls(
            delivery=detail.delivery,
            outcomes=detail.outcomes,
            attempts=detail.attempts,
            dead_records=detail.dead,
            replayed_at=detail.replayed_at,
            meaning=explanation.meaning,
            advice=explanation.advice,
        )


class FailureView(BaseModel):
    """Failed deliveries, or dead records, with the same cause."""

    cause: FailureCause
    number: BoundedCount
    oldest: datetime
    newest: datetime
    example: UUID
    meaning: str
    advice: str

    @classmethod
    def build(cls, count: FailureCount) -> "FailureView":
        """Return a group, explained."""
        explanation = explain(count.cause.state, count.cause.reason)
        members = {field.name: getattr(count, field.name) for field in fields(count)}
        return cls(**members, meaning=explanation.meaning, advice=explanation.advice)


class FailureList(BaseModel):
    """Failures by cause. total: of all causes together."""

    groups: list[FailureView]
    total: BoundedCount
    next_cursor: str | None


class SinkList(BaseModel):
    """The sinks with their states, held deliveries and last writes."""

    sinks: Sequence[SinkStatus]


class OperationView(BaseModel):
    """A replay or a discard. request: its conditions. total: None while unknown."""

    operation: UUID
    kind: str
    state: str
    request: dict[str, str]
    requested_by: str
    requested_at: datetime
    finished_at: datetime | None
    total: int | None
    done: int
    error: str

    @classmethod
    def build(cls, operation: Operation) -> "OperationView":
        """Return an operation with its request in words."""
        return cls(
            operation=operation.id,
            kind=operation.kind,
            state=operation.state,
            request=OperationRequest.from_json(operation.request).describe(),
            requested_by=operation.requested_by,
            requested_at=operation.requested_at,
            finished_at=operation.finished_at,
            total=operation.total,
            done=operation.done,
            error=operation.error,
        )


class OperationList(BaseModel):
    """Operations, newest first."""

    operations: list[OperationView]
    next_cursor: str | None


class RouteView(BaseModel):
    """The route of a delivery. position: in the routes file, from 1; None if no route matches."""

    position: int | None
    sinks: Sequence[str]
    table: str
    explanation: str


class CheckList(BaseModel):
    """The results of all checks. ok: no check failed."""

    ok: bool
    checks: Sequence[CheckResult]


class ActionResult(BaseModel):
    """The result of an action without an operation. is_changed: False if there was nothing to do."""

    is_changed: bool
    message: str
