"""Facts about the whole service: the numbers of /metrics and of the overview page.

Every count is bounded, and no query scans the deliveries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.config.delivery_config import DeliveryConfig
from app.database.engine import Database
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from app.store.accounts import AccountFilter, Accounts, SyncState
from app.store.bounded_count import BoundedCount
from app.store.notifications import Notifications
from app.store.pending import PendingDeliveries
from app.store.service_counts import (
    FailedDeliveries,
    IncompleteRuns,
    count_dead_records,
    count_failed_by_state,
    count_incomplete_runs,
    count_pending,
    count_runs_by_status,
    find_oldest_failed_received_at,
)
from app.store.sink_states import SinkStates
from app.store.sink_status import SinkStatus, list_sink_statuses
from app.store.webhook_events import WebhookEvent, WebhookEvents
from app.store.work_totals import WorkTotal, WorkTotals
from app.store.worker_registry import WorkerRecord, WorkerRegistry

# Ids of webhooks are labels of metrics: their number must be bounded.
MAX_WEBHOOKS = 20
_LONG_WAIT_S = 60


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """Facts of the store.

    oldest_pending_age_s: of deliveries that are not replayed; 0 without any. incomplete_runs: of the last
    day. accounts: their number by state. workers: the live ones. outdated_workers: those with another
    release, routes or sinks than this process. webhook_events: the newest MAX_WEBHOOKS + 1. work_totals:
    since the store exists. oldest_failed_age_s: since it was received; 0 without any. runs: those of the last
    day by status, at most COUNT_LIMIT.
    """

    pending: BoundedCount
    oldest_pending_age_s: float
    failed: FailedDeliveries
    dead_records: BoundedCount
    oldest_failed_age_s: float
    incomplete_runs: IncompleteRuns
    runs: Mapping[str, int]
    sinks: Sequence[SinkStatus]
    accounts: Mapping[SyncState, int]
    workers: Sequence[WorkerRecord]
    outdated_workers: int
    open_notifications: Mapping[str, int]
    webhook_events: Sequence[WebhookEvent]
    work_totals: Mapping[tuple[WorkTotal, str], int]


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """Facts of Redis: deliveries and unreadable entries in the spool, and jobs of the queue."""

    spooled: int
    unreadable: int
    queued_jobs: int


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """The facts of one line: is it up, is data arriving, is anything stuck.

    newest_event_at: None before the first one. oldest_pending_age_s: of deliveries that are not replayed.
    failing_sinks, paused_sinks: their names.
    """

    workers: int
    newest_event_at: datetime | None
    oldest_pending_age_s: float
    failing_sinks: Sequence[str]
    paused_sinks: Sequence[str]

    @property
    def is_stuck(self) -> bool:
        """Whether deliveries wait for workers that are gone or too slow, or for a sink."""
        is_late = self.oldest_pending_age_s >= _LONG_WAIT_S
        return not self.workers or is_late or bool(self.failing_sinks or self.paused_sinks)


def read_health(database: Database, *, now: datetime) -> ServiceHealth:
    """Read the facts of a line about the service; raises StoreUnavailable. Takes a few short queries."""
    oldest = PendingDeliveries(database).find_oldest_received_at()
    newest = WebhookEvents(database).list_newest(limit=1)
    states = SinkStates(database).list()
    return ServiceHealth(
        workers=len(WorkerRegistry(database).list_live(now=now)),
        newest_event_at=newest[0].last_event_at if newest else None,
        oldest_pending_age_s=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
        failing_sinks=sorted({state.sink for state in states if state.open_since}),
        paused_sinks=sorted({state.sink for state in states if state.paused_at}),
    )


def read_store_facts(database: Database, config: DeliveryConfig, *, now: datetime) -> StoreFacts:
    """Read the facts of the store; raises StoreUnavailable. config: of this process."""
    oldest = PendingDeliveries(database).find_oldest_received_at()
    oldest_failed = find_oldest_failed_received_at(database)
    workers = WorkerRegistry(database).list_live(now=now)
    return StoreFacts(
        pending=count_pending(database),
        oldest_pending_age_s=max(0.0, (now - oldest).total_seconds()) if oldest else 0.0,
        failed=count_failed_by_state(database),
        dead_records=count_dead_records(database),
        oldest_failed_age_s=max(0.0, (now - oldest_failed).total_seconds()) if oldest_failed else 0.0,
        runs=count_runs_by_status(database, since=now - timedelta(days=1)),
        sinks=list_sink_statuses(database, config.sinks),
        incomplete_runs=count_incomplete_runs(database, since=now - timedelta(days=1)),
        accounts=Accounts(database).count_by_state(AccountFilter(), now=now),
        workers=workers,
        outdated_workers=sum(bool(config.find_differences(worker.config)) for worker in workers),
        open_notifications=Notifications(database).count_open(),
        webhook_events=WebhookEvents(database).list_newest(limit=MAX_WEBHOOKS + 1),
        work_totals=WorkTotals(database).read(),
    )


def read_redis_facts(queue: DeliveryQueue, spool: Spool) -> RedisFacts:
    """Read the facts of Redis; raises QueueUnavailable."""
    queued_jobs, _ = queue.count_jobs()
    return RedisFacts(spool.count(), spool.count_unreadable(), queued_jobs)
