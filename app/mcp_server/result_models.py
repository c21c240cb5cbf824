"""Results of the tools. Their fields become the schema that an agent reads."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel

from app.checks.check_result import CheckResult
from app.runs.gap_reasons import explain_gap
from app.runs.reconciliation import GapReason, Reconciliation, ResourceCounts
from app.store.delivery_detail import DeadRecordCount, DeliveryDetail, DeliveryRow
from app.store.delivery_filter import DeliverySummary
from app.store.failures import FailureGroup
from app.store.models import SinkOutcome
from app.store.reasons import explain
from app.store.runs import StoredRun


class GapView(BaseModel):
    """Records that a run's sinks lack. records: None if their number is unknown."""

    resource: str
    method: str
    code: str
    records: int | None
    explanation: str

    @classmethod
    def build(cls, counts: ResourceCounts, gap: GapReason) -> "GapView":
        """Return a gap of a resource, explained."""
        return cls(
            resource=counts.resource,
            method=counts.method,
            code=gap.code,
            records=gap.records,
            explanation=explain_gap(gap),
        )


class ResourceView(BaseModel):
    """Records of one resource and method of a run. fetched: by Truto's count; None if it is unknown."""

    resource: str
    method: str
    fetched: int | None
    arrived: int
    written: int
    dead: int
    missing: int
    record_errors: int


class RunView(BaseModel):
    """A run and its reconciliation. verdict: complete, incomplete, open, settling, unknown, …"""

    run: str
    sync_job: str
    integrated_account: str
    environment: str
    status: str
    verdict: str
    first_seen_at: datetime
    last_seen_at: datetime | None
    stopped_at: datetime | None
    reconciled_at: datetime | None
    refusal_reason: str
    stop_reason: str
    record_errors: int
    resources: list[ResourceView]
    gaps: list[GapView]

    @classmethod
    def build(cls, run: StoredRun, reconciliation: Reconciliation) -> "RunView":
        """Return a run without Truto's description of it, which may quote a customer's data."""
        return cls(
            run=run.sync_job_run_id,
            sync_job=run.sync_job_id,
            integrated_account=run.integrated_account_id,
            environment=run.environment_id,
            status=run.status,
            verdict=reconciliation.verdict,
            first_seen_at=run.first_seen_at,
            last_seen_at=run.last_seen_at,
            stopped_at=run.stopped_at,
            reconciled_at=run.reconciled_at,
            refusal_reason=run.refusal_reason,
            stop_reason=run.stop_reason,
            record_errors=reconciliation.record_errors,
            resources=[
                ResourceView(
                    resource=counts.resource,
                    method=counts.method,
                    fetched=counts.fetched,
                    arrived=counts.arrived,
                    written=counts.written,
                    dead=counts.dead,
                    missing=counts.missing,
                    record_errors=counts.errors,
                )
                for counts in reconciliation.resources
            ],
            gaps=[
                GapView.build(counts, gap)
                for counts in reconciliation.resources
                for gap in counts.gap_reasons
            ],
        )


class DeliveryList(BaseModel):
    """Deliveries, newest first. next_cursor: for the next page; None on the last one."""

    deliveries: Sequence[DeliverySummary]
    next_cursor: str | None


class DeliveryView(BaseModel):
    """A delivery without its body. meaning, advice: of its state and reason."""

    delivery: DeliveryRow
    outcomes: Sequence[SinkOutcome]
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
            dead_records=detail.dead,
            replayed_at=detail.replayed_at,
            meaning=explanation.meaning,
            advice=explanation.advice,
        )


class FailureView(BaseModel):
    """Failed deliveries or dead records with the same cause."""

    group: FailureGroup
    meaning: str
    advice: str

    @classmethod
    def build(cls, group: FailureGroup) -> "FailureView":
        """Return a group, explained."""
        explanation = explain(group.state, group.reason)
        return cls(group=group, meaning=explanation.meaning, advice=explanation.advice)


class FailureList(BaseModel):
    """Failures by cause, largest group first."""

    groups: list[FailureView]


class CheckList(BaseModel):
    """The results of all checks. ok: no check failed."""

    ok: bool
    checks: Sequence[CheckResult]


class RouteView(BaseModel):
    """The route of a delivery. position: in the routes file, from 1; None if no route matches."""

    position: int | None
    sinks: Sequence[str]
    table: str
    explanation: str
