"""Summaries of reconciliations, and the time to write them again; pure."""

from collections import Counter
from datetime import datetime

from app.runs.reconciliation import MAX_TRANSIT, NO_GAPS, Reconciliation
from app.store.run_summaries import RunSummary, SummarizedRun
from app.store.runs import StoredRun

# The reasons of records that arrived: certain, also while other deliveries are pending.
_ARRIVED_REASONS = ("dead", "discarded", "unrouted", "late", "no_account", "held")


def summarize(run: StoredRun, reconciliation: Reconciliation, *, pending_deliveries: int) -> SummarizedRun:
    """Return a run with the sums of its reconciliation.

    pending_deliveries: counted before the reconciliation was read, so that the summary of a delivery that was
    settled in between is written again.
    """
    resources = reconciliation.resources
    # The records of pending deliveries are not counted yet: they are not missing.
    is_settling = reconciliation.verdict == "settling"
    gaps = [
        gap
        for counts in resources
        for gap in counts.gap_reasons
        if not is_settling or gap.code in _ARRIVED_REASONS
    ]
    records: Counter[str] = Counter()
    for gap in gaps:
        records[gap.code] += gap.records or 0
    ordered = sorted(records, key=lambda code: (code in NO_GAPS, -records[code], code))
    # A resource that only has record errors has no fetched count.
    fetched = [counts.fetched for counts in resources if counts.arrived or not counts.errors]
    summary = RunSummary(
        verdict=reconciliation.verdict,
        fetched=None if None in fetched or not fetched else sum(filter(None, fetched)),
        arrived=sum(counts.arrived for counts in resources),
        written=sum(counts.written for counts in resources),
        dead=sum(counts.dead for counts in resources),
        missing=0 if is_settling else sum(counts.missing for counts in resources),
        record_errors=reconciliation.record_errors,
        gap_records=sum(1 if gap.records is None else gap.records for gap in gaps if gap.code not in NO_GAPS),
        gap_reasons=tuple((code, records[code] or None) for code in ordered),
        pending_deliveries=pending_deliveries,
    )
    return SummarizedRun(run.sync_job_run_id, run.revision, run.last_seen_at, summary)


def is_outdated(run: StoredRun, *, now: datetime) -> bool:
    """Whether an unreconciled run may have another summary now."""
    if run.summarized_at is None or run.last_seen_at != run.last_delivery_at:
        return True
    # Records that are still in flight are missing after a time.
    quiet_at = (run.last_seen_at or run.first_seen_at) + MAX_TRANSIT
    return run.summarized_at <= quiet_at < now
