"""What became of deliveries: outcomes per sink, dead records, record errors and runs."""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Table, select

from app.database.engine import Store, one_statement, store_faults
from app.database.upsert import Insert, insert_into
from app.store.facts import DeadRecord, Outcome, RecordErrorRow, Settlement
from app.store.pending import lock_pending, settle
from app.store.run_updates import record_runs
from app.store.schema import dead_records, outcomes, record_errors

Fact = Outcome | DeadRecord | RecordErrorRow


class Ledger:
    """The facts about what the inbox holds. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def settle(self, settlements: Sequence[Settlement], *, now: datetime) -> set[UUID]:
        """Write all that one job found out, and finish with its deliveries or make them due again.

        Returns those it did so with: what another worker has concluded meanwhile stays as it is.
        """
        with store_faults(), self._store.begin() as connection:
            pending = lock_pending(connection, [s.verdict.delivery_id for s in settlements])
            settlements = [s for s in settlements if s.verdict.delivery_id in pending]
            _upsert(connection, outcomes, [row for s in settlements for row in s.outcomes])
            _upsert(connection, dead_records, [row for s in settlements for row in s.dead_records])
            _upsert(connection, record_errors, [row for s in settlements for row in s.record_errors])
            record_runs(connection, [s.run for s in settlements if s.run])
            settle(connection, [s.verdict for s in settlements], now=now)
        return pending

    def finished_sinks(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, Outcome]]:
        """Return the outcomes that need no further attempt (done or dead), by delivery and sink."""
        statement = select(outcomes).where(outcomes.c.delivery_id.in_(ids), outcomes.c.state != "failing")
        finished: dict[UUID, dict[str, Outcome]] = {id_: {} for id_ in ids}
        if ids:
            with store_faults(), one_statement(self._store) as connection:
                rows = connection.execute(statement).mappings().all()
            for row in rows:
                finished[row["delivery_id"]][row["sink"]] = Outcome(**row)
        return finished


def _upsert(connection: Connection, table: Table, facts: Sequence[Fact]) -> None:
    if not facts:
        return
    keys = [column.name for column in table.primary_key]
    rows = sorted(map(_row, facts), key=lambda row: tuple(str(row[key]) for key in keys))
    connection.execute(_upsert_statement(connection.dialect.name, table), rows)


# Building a statement costs more than running it: each is built once.
@cache
def _upsert_statement(dialect: str, table: Table) -> Insert:
    statement = insert_into(dialect, table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=keys, set_=changed)


def _row(fact: Fact) -> dict[str, Any]:
    return {name: getattr(fact, name) for name in fact.__slots__}
