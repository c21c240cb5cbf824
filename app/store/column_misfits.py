"""Counts of values that did not fit the typed columns of their route."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.schema import column_misfits

_KEPT = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class ColumnMisfit:
    """Values of one resource that became NULL in a column of a sink.

    number: of writes; a value that is delivered again counts again. last_at: exact to a few seconds.
    """

    sink: str
    resource: str
    column: str
    number: int
    first_at: datetime
    last_at: datetime


class ColumnMisfits:
    """The counts of all workers. Methods raise StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, numbers: Mapping[tuple[str, str, str], int], *, now: datetime) -> None:
        """Add numbers of values by sink, resource and column; delete counts without a misfit for 30 days."""
        counts = column_misfits.c
        statement = insert_into(self._database.dialect.name, column_misfits)
        statement = statement.on_conflict_do_update(
            index_elements=[counts.sink, counts.resource, counts.column_name],
            set_={"number": counts.number + statement.excluded.number, "last_at": now},
        )
        rows = [
            {
                "sink": sink,
                "resource": resource,
                "column_name": column,
                "number": number,
                "first_at": now,
                "last_at": now,
            }
            # In one order, so that two workers cannot deadlock.
            for (sink, resource, column), number in sorted(numbers.items())
        ]
        if rows:
            with self._database.transaction() as connection:
                connection.execute(statement, rows)
            self._database.execute(delete(column_misfits).where(counts.last_at < now - _KEPT))

    def list_newest(self, *, limit: int) -> Sequence[ColumnMisfit]:
        """Return the counts whose newest misfit is the newest."""
        newest = select(column_misfits).order_by(column_misfits.c.last_at.desc()).limit(limit)
        return [
            ColumnMisfit(row.sink, row.resource, row.column_name, row.number, row.first_at, row.last_at)
            for row in self._database.read(newest)
        ]
