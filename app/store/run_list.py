"""Lists of runs with their summaries, newest first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, TextClause, select, tuple_

from app.database.engine import Database
from app.store.run_summaries import HAS_GAPS, SUMMARY_COLUMNS, RunSummary, to_run_summary
from app.store.schema import runs
from app.truto.runs import FINAL_RANK

# A filter without an index of its own is compared with so many runs, then the page is shown.
_MAX_SEARCHED = 20_000
_EXACT_FILTERS = ("sync_job_id", "environment_id", "webhook_id", "verdict")
_INCOMPLETE = "incomplete"

Position = tuple[datetime, str]


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Conditions that a run must meet; empty ones match every run.

    ids: one of them. status: Truto's; None for any, "" for runs without a lifecycle event. verdict: of the
    summary. since: of first_seen_at.
    """

    ids: Sequence[str] | None = None
    integrated_account_id: str = ""
    sync_job_id: str = ""
    environment_id: str = ""
    webhook_id: str = ""
    status: str | None = None
    verdict: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in a list. last_delivery_at: of its newest delivery, at its summary.

    summarized_at: None if the run changed since its summary, which is then written again within seconds.
    """

    sync_job_run_id: str
    sync_job_id: str
    integrated_account_id: str
    environment_id: str
    webhook_id: str
    status: str
    status_rank: int
    first_seen_at: datetime
    last_delivery_at: datetime | None
    reconciled_at: datetime | None
    stop_reason: str
    summarized_at: datetime | None
    summary: RunSummary

    @property
    def has_ended(self) -> bool:
        """Whether the run has a final status."""
        return self.status_rank >= FINAL_RANK

    @property
    def position(self) -> Position:
        """Its place in the list."""
        return self.first_seen_at, self.sync_job_run_id


@dataclass(frozen=True, slots=True)
class RunPage:
    """One page of a list of runs.

    next_position: where the next page begins; None at the end of the list. is_partial: the search stopped
    there, before it found enough runs for a page.
    """

    runs: Sequence[ListedRun]
    next_position: Position | None
    is_partial: bool


_NAMES = [field.name for field in fields(ListedRun) if field.name != "summary"]
_COLUMNS = [runs.c[name] for name in (*_NAMES, *SUMMARY_COLUMNS)]


def list_runs(
    database: Database,
    run_filter: RunFilter,
    *,
    after: Position | None = None,
    limit: int,
    max_searched: int = _MAX_SEARCHED,
) -> RunPage:
    """Return a page of the runs that match, newest first; raises StoreUnavailable.

    after: the position to continue after. max_searched: the number of runs to compare with the filter.
    """
    position = tuple_(runs.c.first_seen_at, runs.c.sync_job_run_id)
    searched = select(*_COLUMNS).where(*_indexed_clauses(run_filter))
    if after:
        searched = searched.where(position < after)
    searched = searched.order_by(runs.c.first_seen_at.desc(), runs.c.sync_job_run_id.desc())
    runs_found = _find_matching(database, searched.limit(max_searched), run_filter, limit + 1)
    end = None
    if len(runs_found) <= limit:
        # The end first, and then the runs before it: runs that begin or change in between would move it.
        end = _find_end_of_search(database, searched, max_searched)
        bounded = searched.where(position >= end) if end else searched
        runs_found = _find_matching(database, bounded, run_filter, limit + 1)
    if len(runs_found) > limit:
        return RunPage(runs_found[:limit], runs_found[limit - 1].position, is_partial=False)
    return RunPage(runs_found, end, is_partial=end is not None)


def _find_matching(
    database: Database, searched: Select[Any], run_filter: RunFilter, limit: int
) -> list[ListedRun]:
    """Return the newest runs of a query that match a filter."""
    candidates = searched.subquery()
    order = (candidates.c.first_seen_at.desc(), candidates.c.sync_job_run_id.desc())
    matching = select(candidates).order_by(*order).limit(limit)
    matching = matching.where(*(candidates.c[name] == value for name, value in _exact_values(run_filter)))
    return [
        ListedRun(**{name: getattr(row, name) for name in _NAMES}, summary=to_run_summary(row))
        for row in database.read(matching)
    ]


def _find_end_of_search(database: Database, searched: Select[Any], max_searched: int) -> Position | None:
    """Return the position of the last run that was searched; None if there are no more."""
    columns = (runs.c.first_seen_at, runs.c.sync_job_run_id)
    rows = database.read(searched.with_only_columns(*columns).offset(max_searched - 1).limit(1))
    return (rows[0].first_seen_at, rows[0].sync_job_run_id) if rows else None


def _exact_values(run_filter: RunFilter) -> Iterator[tuple[str, str]]:
    """Yield the conditions that no index serves: columns and values."""
    for name in _EXACT_FILTERS:
        if value := getattr(run_filter, name):
            yield name, value
    if run_filter.status is not None:
        yield "status", run_filter.status


def _indexed_clauses(run_filter: RunFilter) -> list[ColumnElement[bool] | TextClause]:
    """Return the conditions that an index serves."""
    clauses: list[ColumnElement[bool] | TextClause] = []
    if run_filter.ids is not None:
        clauses.append(runs.c.sync_job_run_id.in_(run_filter.ids))
    if run_filter.integrated_account_id:
        clauses.append(runs.c.integrated_account_id == run_filter.integrated_account_id)
    if run_filter.verdict == _INCOMPLETE:
        clauses.append(HAS_GAPS)
    if run_filter.since:
        clauses.append(runs.c.first_seen_at >= run_filter.since)
    return clauses
