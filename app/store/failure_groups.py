"""Groups of failures for a page: found by skipping through an index, with bounded counts.

A query with GROUP BY reads every failure. These read one entry for each group, and then count a page of
groups up to a limit, so that 500,000 failures take milliseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from typing import Any
from uuid import UUID

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    Text,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    tuple_,
    values,
)

from app.database.engine import Database
from app.store.bounded_count import COUNT_LIMIT, BoundedCount, count_up_to
from app.store.delivery_filter import DeliveryFilter, FailureCause, matches_pattern, where_clauses
from app.store.failures import DEAD_RECORDS_JOIN, IS_FAILED
from app.store.reasons import RECORD
from app.store.schema import dead_records, deliveries

# Groups that are read for one page; a window may contain failures of a few of them only.
_MAX_VISITED = 1000


@dataclass(frozen=True, slots=True)
class FailureCount:
    """Failures with the same cause. example: the id of the newest delivery."""

    cause: FailureCause
    number: BoundedCount
    oldest: datetime
    newest: datetime
    example: UUID


@dataclass(frozen=True, slots=True)
class FailureCounts:
    """A page of groups, in the order of their causes.

    after: the cause after which the next page begins; None at the end. is_newest_only: whether the groups
    count only the newest failures that match.
    """

    groups: Sequence[FailureCount]
    after: FailureCause | None = None
    is_newest_only: bool = False


@dataclass(frozen=True, slots=True)
class FailureTotals:
    """Numbers of failures."""

    deliveries: BoundedCount
    records: BoundedCount


def count_failures(
    database: Database,
    delivery_filter: DeliveryFilter,
    *,
    of_records: bool,
    after: FailureCause | None = None,
    limit: int,
) -> FailureCounts:
    """Return a page of the failed deliveries, or of the dead records, by cause.

    Dead records of failed deliveries count too: reading the deliveries of all records would take seconds.

    delivery_filter: by state, reason, resource and `since`; or also by run or account, which then counts the
    newest COUNT_LIMIT failures only. Raises StoreUnavailable.
    """
    source = _RECORDS if of_records else _DELIVERIES
    if delivery_filter.sync_job_run_id or delivery_filter.integrated_account_id:
        return _group_newest(database, source, delivery_filter)
    since, causes, next_after = delivery_filter.since, list[FailureCause](), None
    visited = database.read(_select_causes(source, delivery_filter, after))
    for number, row in enumerate(visited, start=1):
        cause = _to_cause(source, row)
        if (since is None or row.newest >= since) and _matches(delivery_filter, cause):
            causes.append(cause)
        if number == _MAX_VISITED or (len(causes) == limit and number < len(visited)):
            next_after = cause
            break
    groups = _count_causes(database, source, causes, since) if causes else []
    return FailureCounts(groups, next_after)


def count_all_failures(database: Database, *, since: datetime | None) -> FailureTotals:
    """Count the failed deliveries and the dead records since a time; raises StoreUnavailable."""
    numbers = []
    for source in (_DELIVERIES, _RECORDS):
        failures = select(source.delivery_id).select_from(source.rows).where(source.is_failure)
        numbers.append(count_up_to(failures.where(source.time >= since) if since else failures))
    return FailureTotals(*map(BoundedCount.build, database.read(select(*numbers))[0]))


@dataclass(frozen=True, slots=True)
class _Source:
    """The table of failures, and the columns of its index by cause. is_failure: its predicate."""

    rows: Any
    key: Mapping[str, ColumnElement[Any]]
    time: ColumnElement[datetime]
    delivery_id: ColumnElement[UUID]
    is_failure: ColumnElement[bool]


_DELIVERIES = _Source(
    rows=deliveries,
    key={name: deliveries.c[name] for name in ("state", "reason", "resource")},
    time=deliveries.c.received_at,
    delivery_id=deliveries.c.id,
    is_failure=IS_FAILED,
)
_RECORDS = _Source(
    rows=dead_records,
    key={name: dead_records.c[name] for name in ("reason", "sink", "resource")},
    time=dead_records.c.died_at,
    delivery_id=dead_records.c.delivery_id,
    is_failure=dead_records.c.discard_reason == literal_column("''"),
)


def _select_causes(
    source: _Source, delivery_filter: DeliveryFilter, after: FailureCause | None
) -> Select[Any]:
    """Return the query for the next causes, each with the time of its newest failure."""
    key = tuple_(*source.key.values())
    prefix = _get_key_prefix(source, delivery_filter)
    if after:
        start = key > tuple(getattr(after, name) for name in source.key)
    else:
        # Not an equation: PostgreSQL would then begin each step at the first group of the prefix.
        start = key >= tuple(prefix.get(name, "") for name in source.key)
    first = _select_next(source, start)
    visited = select(*first, literal(1).label("depth")).cte("visited", recursive=True)
    following = _select_next(
        source, key > tuple_(*(visited.c[name] for name in source.key)), correlate=visited
    )
    is_of_prefix = [visited.c[name] == value for name, value in prefix.items()]
    visited = visited.union_all(
        select(*following, visited.c.depth + 1).where(
            visited.c.reason.is_not(None), visited.c.depth < _MAX_VISITED, *is_of_prefix
        )
    )
    newest = _select_edge(source, visited, source.time, is_newest=True)
    statement = select(*(visited.c[name] for name in source.key), newest.label("newest"))
    return statement.where(
        visited.c.reason.is_not(None), *(visited.c[name] == value for name, value in prefix.items())
    )


def _get_key_prefix(source: _Source, delivery_filter: DeliveryFilter) -> dict[str, str]:
    """Return the first columns of the index that a filter sets to one value."""
    states = delivery_filter.states
    wanted = {"state": states[0] if len(states) == 1 else "", "reason": delivery_filter.reason}
    return {name: wanted[name] for name in takewhile(lambda name: bool(wanted.get(name)), source.key)}


def _select_next(
    source: _Source, condition: ColumnElement[bool], *, correlate: CTE | None = None
) -> list[ColumnElement[Any]]:
    """Return the columns of the next key as scalar queries: SQLite has no lateral joins."""
    key = list(source.key.values())
    queries = [
        select(column_).select_from(source.rows).where(source.is_failure, condition).order_by(*key).limit(1)
        for column_ in key
    ]
    return [
        (query.correlate(correlate) if correlate is not None else query).scalar_subquery().label(name)
        for name, query in zip(source.key, queries, strict=True)
    ]


def _select_edge(
    source: _Source,
    causes: CTE,
    column_: ColumnElement[Any],
    *,
    is_newest: bool,
    since: datetime | None = None,
) -> ScalarSelect[Any]:
    """Return a column of the newest or oldest failure of each cause."""
    order = (source.time, source.delivery_id)
    return (
        select(column_)
        .select_from(source.rows)
        .where(*_of_cause(source, causes, since))
        .order_by(*((part.desc() for part in order) if is_newest else order))
        .limit(1)
        .correlate(causes)
        .scalar_subquery()
    )


def _count_causes(
    database: Database, source: _Source, causes: Sequence[FailureCause], since: datetime | None
) -> list[FailureCount]:
    names = list(source.key)
    columns: list[Any] = [column("position", Integer), *(column(name, Text) for name in names)]
    rows = [(position, *(getattr(cause, name) for name in names)) for position, cause in enumerate(causes)]
    keys = values(*columns, name="causes").data(rows).cte("causes")
    counted = (
        select(source.delivery_id)
        .select_from(source.rows)
        .where(*_of_cause(source, keys, since))
        .correlate(keys)
    )
    statement = select(
        keys.c.position,
        count_up_to(counted).label("number"),
        _select_edge(source, keys, source.time, is_newest=False, since=since).label("oldest"),
        _select_edge(source, keys, source.time, is_newest=True, since=since).label("newest"),
        _select_edge(source, keys, source.delivery_id, is_newest=True, since=since).label("example"),
    )
    return [
        FailureCount(
            causes[row.position], BoundedCount.build(row.number), row.oldest, row.newest, row.example
        )
        for row in sorted(database.read(statement), key=lambda row: row.position)
        if row.number
    ]


def _group_newest(database: Database, source: _Source, delivery_filter: DeliveryFilter) -> FailureCounts:
    """Group the newest failures that match: an index finds those of one run or account."""
    conditions = [*where_clauses(replace(delivery_filter, reason="")), source.is_failure]
    if delivery_filter.reason:
        conditions.append(source.key["reason"] == delivery_filter.reason)
    newest = (
        select(*source.key.values(), source.time.label("time"), source.delivery_id.label("delivery_id"))
        .select_from(DEAD_RECORDS_JOIN if source is _RECORDS else deliveries)
        .where(*conditions)
        .order_by(source.time.desc())
        .limit(COUNT_LIMIT + 1)
        .subquery()
    )
    key = [newest.c[name] for name in source.key]
    statement = (
        select(
            *key,
            func.count().label("number"),
            func.min(newest.c.time).label("oldest"),
            func.max(newest.c.time).label("newest"),
            # As text: PostgreSQL has no max() of uuid.
            func.max(cast(newest.c.delivery_id, Text)).label("example"),
        )
        .group_by(*key)
        .order_by(*key)
    )
    rows = database.read(statement)
    is_exact = sum(row.number for row in rows) <= COUNT_LIMIT
    groups = [
        FailureCount(
            _to_cause(source, row),
            BoundedCount(min(row.number, COUNT_LIMIT), is_exact=is_exact),
            row.oldest,
            row.newest,
            UUID(row.example),
        )
        for row in rows
    ]
    return FailureCounts(groups, is_newest_only=not is_exact)


def _of_cause(source: _Source, causes: CTE, since: datetime | None) -> list[ColumnElement[bool]]:
    clauses = [source.is_failure, *(column_ == causes.c[name] for name, column_ in source.key.items())]
    return [*clauses, source.time >= since] if since else clauses


def _to_cause(source: _Source, row: Any) -> FailureCause:
    names = ("state", "reason", "sink", "resource")
    values_ = {name: getattr(row, name) if name in source.key else "" for name in names}
    return FailureCause(**{**values_, **({} if "state" in source.key else {"state": RECORD})})


def _matches(delivery_filter: DeliveryFilter, cause: FailureCause) -> bool:
    """Whether a filter's states, reason and pattern of resources match a cause."""
    return (
        (cause.state == RECORD or not delivery_filter.states or cause.state in delivery_filter.states)
        and delivery_filter.reason in ("", cause.reason)
        and (not delivery_filter.resource or matches_pattern(delivery_filter.resource, cause.resource))
    )
