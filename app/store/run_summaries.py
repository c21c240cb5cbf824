"""Summaries of runs: the sums of each run's last reconciliation, for lists.

A summary is a cache: always written as a whole, and written again when its run changes. Therefore it cannot
drift, as a counter can.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, null, or_, select, text, update

from app.store.schema import runs

_PAGE_SIZE = 500
# As text: a database uses a partial index only for a query that repeats its condition.
HAD_PENDING = text("pending_deliveries > 0")
HAS_GAPS = text("gap_records > 0")
# The values of a change that a summary does not include.
OUTDATE_SUMMARY: Mapping[str, Any] = {"summarized_at": null(), "revision": runs.c.revision + 1}


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The sums of a run's last reconciliation, over its resources.

    verdict: "" before the first one. fetched: Truto's count, None if it is unknown. gap_records: records that
    a sink lacks; a gap of unknown number counts as one. gap_reasons: codes of gap reasons with their records,
    None if the number is unknown, the largest first.
    """

    verdict: str = ""
    fetched: int | None = None
    arrived: int = 0
    written: int = 0
    dead: int = 0
    missing: int = 0
    record_errors: int = 0
    gap_records: int = 0
    gap_reasons: Sequence[tuple[str, int | None]] = ()
    pending_deliveries: int = 0

    @property
    def has_gaps(self) -> bool:
        """Whether any record is missing from a sink."""
        return self.gap_records > 0


SUMMARY_COLUMNS = tuple(RunSummary.__dataclass_fields__)


def to_run_summary(row: Any) -> RunSummary:
    """Return the summary in a row of `runs` or `syncs`."""
    columns = {name: getattr(row, name) for name in SUMMARY_COLUMNS}
    reasons = json.loads(columns["gap_reasons"] or "[]")
    return RunSummary(**columns | {"gap_reasons": tuple((code, records) for code, records in reasons)})


def to_summary_columns(summary: RunSummary) -> dict[str, Any]:
    """Return the values of a summary's columns."""
    columns = {name: getattr(summary, name) for name in SUMMARY_COLUMNS}
    return columns | {"gap_reasons": json.dumps(summary.gap_reasons) if summary.gap_reasons else ""}


@dataclass(frozen=True, slots=True)
class SummarizedRun:
    """A run with its new summary. revision, last_seen_at: of the run when its reconciliation began."""

    sync_job_run_id: str
    revision: int
    last_seen_at: datetime | None
    summary: RunSummary


def save_summaries(connection: Connection, summarized: Sequence[SummarizedRun], *, now: datetime) -> None:
    """Write summaries in the caller's transaction, except of runs that changed since.

    now: a time before the reconciliation, so that an older summary never overwrites a newer one.
    """
    rows = [
        {
            "run_id": run.sync_job_run_id,
            "read_revision": run.revision,
            "now": now,
            "new_last_delivery_at": run.last_seen_at,
            **{f"new_{name}": value for name, value in to_summary_columns(run.summary).items()},
        }
        # Ordered by key, so that two processes cannot deadlock.
        for run in sorted(summarized, key=lambda run: run.sync_job_run_id)
    ]
    if rows:
        connection.execute(_SAVE, rows)


def outdate_summaries(connection: Connection, run_ids: Iterable[str]) -> None:
    """Mark runs, whose deliveries changed their states, in the caller's transaction."""
    # Locked by key, in the order in which workers write their runs: otherwise they could deadlock.
    ordered = sorted({*run_ids} - {""})
    for start in range(0, len(ordered), _PAGE_SIZE):
        is_selected = runs.c.sync_job_run_id.in_(ordered[start : start + _PAGE_SIZE])
        lock = select(runs.c.sync_job_run_id).where(is_selected).order_by(runs.c.sync_job_run_id)
        connection.execute(lock.with_for_update())
        connection.execute(update(runs).where(is_selected).values(OUTDATE_SUMMARY))


_SAVE = (
    update(runs)
    .where(
        runs.c.sync_job_run_id == bindparam("run_id"),
        runs.c.revision == bindparam("read_revision"),
        or_(runs.c.summarized_at.is_(None), runs.c.summarized_at <= bindparam("now")),
    )
    .values({name: bindparam(f"new_{name}") for name in ("last_delivery_at", *SUMMARY_COLUMNS)})
    .values(summarized_at=bindparam("now"))
)
