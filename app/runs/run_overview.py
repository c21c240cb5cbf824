"""Everything that a page shows about one run, read with bounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from app.database.engine import Database
from app.runs.reconcile import reconcile_stored
from app.runs.reconciliation import Reconciliation
from app.runs.run_summary import summarize
from app.runs.stop_request import STOP_ACTION, RunStop, find_stop
from app.runs.timeline import TimelineEntry, build_timeline
from app.store.audit_log import AuditLog
from app.store.delivery_filter import DeliverySummary
from app.store.notifications import Notifications
from app.store.run_detail import (
    CauseGroups,
    DeadRecordGroup,
    RecordErrorGroup,
    count_run_deliveries,
    group_dead_records,
    group_record_errors,
    list_newest_deliveries,
    read_run_events,
)
from app.store.run_list import RunFilter, list_runs
from app.store.run_summaries import RunSummary
from app.store.runs import Runs, StoredRun

# Counting the records of a larger run takes longer than a page may.
MAX_COUNTED_DELIVERIES = 10_000
_NEWEST_DELIVERIES = 10
_MAX_NOTIFICATIONS = 50
_MAX_STOP_REQUESTS = 10


@dataclass(frozen=True, slots=True)
class RunOverview:
    """One run with its counts and its history.

    reconciliation: of this moment; None for a large run, whose counts are those of its last summary.
    summarized_at: of that summary; None if the run changed since. is_large: see MAX_COUNTED_DELIVERIES; the
    dead records are then those of its newest deliveries. can_count_all: whether a large run can be counted
    on request.
    """

    run: StoredRun
    summary: RunSummary
    reconciliation: Reconciliation | None
    summarized_at: datetime | None
    is_large: bool
    stop: RunStop
    timeline: Sequence[TimelineEntry]
    has_whole_timeline: bool
    record_errors: CauseGroups[RecordErrorGroup]
    dead_records: CauseGroups[DeadRecordGroup]
    newest_deliveries: Sequence[DeliverySummary]
    can_count_all: bool

    @property
    def may_change(self) -> bool:
        """Whether the run is in progress, or not reconciled yet."""
        return self.run.reconciled_at is None or not self.run.has_ended


def read_run_overview(
    database: Database,
    run_id: str,
    *,
    now: datetime,
    counts_all: bool = False,
    max_counted: int = MAX_COUNTED_DELIVERIES,
) -> RunOverview | None:
    """Return a run in detail; None if it is unknown. Raises StoreUnavailable.

    counts_all: reconcile also a large run, which takes seconds; ignored in SQLite, which would hold this
    process for as long. max_counted: the deliveries of a run that is not large.
    """
    run = Runs(database).get(run_id)
    if run is None:
        return None
    is_large = count_run_deliveries(database, run_id, limit=max_counted + 1) > max_counted
    reconciliation, summary, summarized_at = None, RunSummary(), None
    can_count_all = database.dialect.name != "sqlite"
    if not is_large or (counts_all and can_count_all):
        reconciliation = reconcile_stored(database, run, now=now)
        summary = summarize(run, reconciliation, pending_deliveries=0).summary
    else:
        for listed in list_runs(database, RunFilter(ids=[run_id]), limit=1).runs:
            summary, summarized_at = listed.summary, listed.summarized_at
    notifications = Notifications(database).for_subject(run_id, limit=_MAX_NOTIFICATIONS)
    requests = AuditLog(database).list_actions(
        STOP_ACTION, run_id, since=run.first_seen_at, limit=_MAX_STOP_REQUESTS
    )
    events = read_run_events(database, run_id)
    return RunOverview(
        run,
        summary,
        reconciliation,
        summarized_at,
        is_large,
        find_stop(run, notifications),
        build_timeline(run, events, notifications, requests),
        events.is_complete and len(notifications) < _MAX_NOTIFICATIONS,
        group_record_errors(database, run_id),
        group_dead_records(database, run_id),
        list_newest_deliveries(database, run_id, limit=_NEWEST_DELIVERIES),
        can_count_all,
    )
