"""Totals of the workers' work since the store exists. They only grow.

The totals of a run are sums over its deliveries. These totals are counters for graphs: a worker adds to them
every few seconds, and a killed worker loses the numbers of these seconds. If the database commits them and
its reply is lost, they are added again: they count twice.
"""

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import select

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.schema import work_totals


class WorkTotal(StrEnum):
    """The totals. Deliveries are counted by their final state, all others by sink."""

    DELIVERIES = "deliveries"
    RECORDS_WRITTEN = "records_written"
    RECORDS_DEAD = "records_dead"
    SINK_WRITES = "sink_writes"
    SINK_WRITE_MS = "sink_write_ms"
    MISFITS = "misfits"


class WorkTotals:
    """The totals of all workers. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, numbers: Mapping[tuple[WorkTotal, str], int]) -> None:
        """Add numbers by total and label: a state, or the name of a sink."""
        insert = insert_into(self._database.dialect.name, work_totals)
        statement = insert.on_conflict_do_update(
            index_elements=list(work_totals.primary_key),
            set_={"number": work_totals.c.number + insert.excluded.number},
        )
        # In order: two processes that update the same rows in another order would deadlock.
        rows = [
            {"name": name, "label": label, "number": number}
            for (name, label), number in sorted(numbers.items())
        ]
        self._database.execute(statement.values(rows))

    def read(self) -> dict[tuple[WorkTotal, str], int]:
        """Return all totals, by total and label."""
        statement = select(work_totals).where(work_totals.c.name.in_(list(WorkTotal)))
        return {
            (WorkTotal(row.name), row.label): row.number
            for row in self._database.read(statement.order_by(work_totals.c.name, work_totals.c.label))
        }
