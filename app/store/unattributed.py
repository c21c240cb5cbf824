"""Deliveries without an account or a run, and the runs that may attribute them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, exists, func, or_, select, update

from app.clock import utc_now
from app.database.engine import Database
from app.store.failures import IS_FAILED
from app.store.held import HELD_AFTER
from app.store.models import DeliveryPriority, DeliveryState
from app.store.reasons import Reason
from app.store.run_summaries import outdate_summaries
from app.store.schema import deliveries, runs
from app.truto.events import RECORD_ERROR_EVENT, RECORD_EVENT
from app.truto.runs import FINAL_RANK

# A run of several accounts never tells those of some batches: they are tried a few times.
_MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class UnattributedDeliveries:
    """The quarantined deliveries of one webhook that name no account.

    webhook_id: "" if the events name none. since: the oldest was received.
    """

    webhook_id: str
    deliveries: int
    since: datetime


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended, or ended at a time: ended_at. details: its JSON, None if unknown."""

    sync_job_run_id: str
    ended_at: datetime | None
    details: str | None


class AttributionRuns:
    """Reads runs for an attribution. Every method is one statement and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find_details(self, run_ids: Iterable[str]) -> dict[str, str]:
        """Return the JSON of runs by id; runs without a lifecycle event are left out."""
        statement = select(runs.c.sync_job_run_id, runs.c.run).where(
            runs.c.sync_job_run_id.in_(sorted(run_ids)), runs.c.run.is_not(None)
        )
        return {row.sync_job_run_id: row.run for row in self._database.read(statement)}

    def find_open_runs(
        self, webhook_ids: Iterable[str], *, since: datetime
    ) -> Mapping[str, Sequence[OpenRun]]:
        """Return the unreconciled runs by webhook that have not ended, or ended later than `since`."""
        statement = select(
            runs.c.webhook_id, runs.c.sync_job_run_id, runs.c.status_rank, runs.c.status_at, runs.c.run
        ).where(
            runs.c.webhook_id.in_(sorted(webhook_ids)),
            or_(
                (runs.c.status_rank < FINAL_RANK) & runs.c.reconciled_at.is_(None),
                (runs.c.status_rank >= FINAL_RANK) & (runs.c.status_at > since),
            ),
        )
        open_runs: dict[str, list[OpenRun]] = {}
        for row in self._database.read(statement):
            ended_at = row.status_at if row.status_rank >= FINAL_RANK else None
            open_runs.setdefault(row.webhook_id, []).append(OpenRun(row.sync_job_run_id, ended_at, row.run))
        return open_runs

    def find_webhooks_with_pending_lifecycle(self, webhook_ids: Iterable[str]) -> set[str]:
        """Return those of the webhooks with a pending lifecycle event, which may begin or end a run."""
        statement = (
            select(deliveries.c.webhook_id)
            .where(
                deliveries.c.state == DeliveryState.PENDING,
                # For the index, which begins with the priority.
                deliveries.c.priority.in_(list(DeliveryPriority)),
                # A worker has read the run of a held delivery.
                deliveries.c.due_at < utc_now() + HELD_AFTER,
                deliveries.c.webhook_id.in_(sorted(webhook_ids)),
                deliveries.c.event.like("sync\\_job\\_run:%", escape="\\"),
                deliveries.c.event.not_in((RECORD_EVENT, RECORD_ERROR_EVENT)),
            )
            .distinct()
        )
        return {row.webhook_id for row in self._database.read(statement)}


def find_unattributed(database: Database) -> list[UnattributedDeliveries]:
    """Return the quarantined deliveries without an account, by webhook; raises StoreUnavailable."""
    statement = (
        select(deliveries.c.webhook_id, func.count(), func.min(deliveries.c.received_at))
        .where(*_is_unattributed())
        .group_by(deliveries.c.webhook_id)
        .order_by(deliveries.c.webhook_id)
    )
    return [UnattributedDeliveries(*row) for row in database.read(statement)]


def requeue_attributable(database: Database, *, now: datetime) -> int:
    """Requeue the deliveries without an account whose run has become known since; return their number.

    Truto sends lifecycle events by a queue of their own, so that a page may come first.
    """
    is_known = exists().where(runs.c.sync_job_run_id == deliveries.c.sync_job_run_id, runs.c.run.is_not(None))
    statement = (
        update(deliveries)
        .where(
            *_is_unattributed(),
            deliveries.c.sync_job_run_id != "",
            deliveries.c.attempts < _MAX_ATTEMPTS,
            is_known,
        )
        .values(state=DeliveryState.PENDING, reason="", settled_at=None, leased_until=None, due_at=now)
        .returning(deliveries.c.sync_job_run_id)
    )
    with database.transaction() as connection:
        run_ids = connection.execute(statement).scalars().all()
        outdate_summaries(connection, run_ids)
    return len(run_ids)


def _is_unattributed() -> list[ColumnElement[bool]]:
    is_without_account = deliveries.c.reason == Reason.NO_ACCOUNT
    return [IS_FAILED, deliveries.c.state == DeliveryState.QUARANTINED, is_without_account]
