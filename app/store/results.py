"""Results of attempts: sink outcomes, dead records, record errors and runs."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, func, select

from app.database.engine import Database
from app.database.upsert import Insert, insert_into
from app.encryption import Keyring
from app.store.delivery_attempts import save_attempts
from app.store.encrypted_columns import encrypt_row
from app.store.encryption_keys import EncryptionKeys
from app.store.held import LOAD_SCOPE
from app.store.models import DeadRecord, DeliveryResult, SinkOutcome, SinkOutcomeState, StoredRecordError
from app.store.pending import lock_pending, write_state_changes
from app.store.row_sets import bind_rows, build_row_set
from app.store.run_updates import upsert_runs
from app.store.schema import dead_records, record_errors, sink_outcomes

ResultRow = SinkOutcome | DeadRecord | StoredRecordError


class DeliveryResults:
    """The results of deliveries. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys = EncryptionKeys(database)

    def save(
        self, results: Sequence[DeliveryResult], *, now: datetime, worker: str | None = None
    ) -> set[UUID]:
        """Write the results of one job and the new states of its deliveries; return the ids it changed.

        worker: the owner of the leases; None for any. A delivery that was settled, or that another worker
        leased meanwhile, is left unchanged: a replay may have requeued it for other routes.
        """
        ids = [result.state_change.delivery_id for result in results]
        keyring = self._database.keyring
        self._keys.register()
        with self._database.transaction() as connection:
            pending = lock_pending(connection, ids, worker=worker)
            results = [result for result in results if result.state_change.delivery_id in pending]
            _upsert(
                connection, sink_outcomes, [_to_row(row) for result in results for row in result.outcomes]
            )
            for result in results:
                _delete_dead_records(connection, result)
            upsert_dead_records(
                connection, [row for result in results for row in result.dead_records], pending, keyring
            )
            _upsert(
                connection,
                record_errors,
                [
                    encrypt_row(keyring, record_errors, _to_row(row))
                    for result in results
                    for row in result.record_errors
                ],
            )
            upsert_runs(connection, [result.run for result in results if result.run])
            save_attempts(connection, [result.attempt for result in results if result.attempt])
            write_state_changes(connection, [result.state_change for result in results], now=now)
        return set(pending)

    def find_outcomes(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, SinkOutcome]]:
        """Return the outcomes of earlier attempts by delivery and sink."""
        statement = select(sink_outcomes).where(sink_outcomes.c.delivery_id.in_(ids))
        outcomes: dict[UUID, dict[str, SinkOutcome]] = {id_: {} for id_ in ids}
        if ids:
            for row in self._database.read(statement):
                outcomes[row.delivery_id][row.sink] = to_sink_outcome(row)
        return outcomes

    def count_record_errors(self, delivery_id: UUID) -> int:
        """Return the number of a delivery's record errors that are stored."""
        statement = select(func.count()).where(record_errors.c.delivery_id == delivery_id)
        return int(self._database.read(statement)[0][0])


def upsert_dead_records(
    connection: Connection, records: Sequence[DeadRecord], resources: Mapping[UUID, str], keyring: Keyring
) -> None:
    """Write dead records in the caller's transaction. resources: by delivery."""
    rows = [_to_row(record) | {"resource": resources[record.delivery_id]} for record in records]
    _upsert(connection, dead_records, [encrypt_row(keyring, dead_records, row) for row in rows])


def to_sink_outcome(row: Row[Any]) -> SinkOutcome:
    """Return a row of the table as an outcome."""
    return SinkOutcome(
        delivery_id=row.delivery_id,
        sink=row.sink,
        state=SinkOutcomeState(row.state),
        written=row.written,
        dead=row.dead,
        reason=row.reason,
        message=row.message,
        updated_at=row.updated_at,
        progress=row.progress,
        held_scope=row.held_scope,
        held_received_at=row.held_received_at,
        filtered=row.filtered,
    )


def _delete_dead_records(connection: Connection, result: DeliveryResult) -> None:
    if result.restarted_sinks:
        finished = [o.sink for o in result.outcomes if o.state != SinkOutcomeState.FAILING]
        # Unreadable records have sink "": a sink that was finished before does not find them again.
        keeps_unreadable = not {*finished} <= {*result.restarted_sinks}
        sinks = result.restarted_sinks if keeps_unreadable else ("", *result.restarted_sinks)
        statement = delete(dead_records).where(
            dead_records.c.delivery_id == result.state_change.delivery_id, dead_records.c.sink.in_(sinks)
        )
        connection.execute(statement)


def _upsert(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    ordered = sorted(rows, key=lambda row: tuple(str(row[key]) for key in keys))
    dialect = connection.dialect.name
    parameters = bind_rows(ordered) if _reads_row_set(dialect, table) else ordered
    connection.execute(_upsert_statement(dialect, table), parameters)


def _reads_row_set(dialect: str, table: Table) -> bool:
    # Rows of other tables may be large.
    return dialect == "postgresql" and table is sink_outcomes


# Building a statement costs more than executing it.
@cache
def _upsert_statement(dialect: str, table: Table) -> Insert:
    statement = insert_into(dialect, table)
    keys = [column.name for column in table.primary_key]
    changed = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
    where = _may_replace(statement.excluded) if table is sink_outcomes else None
    if _reads_row_set(dialect, table):
        rows = build_row_set({column.name: column.type for column in table.c})
        statement = statement.from_select(list(rows.c.keys()), select(*rows.c))
    return statement.on_conflict_do_update(index_elements=keys, set_=changed, where=where)


def _may_replace(new: Any) -> ColumnElement[bool]:
    """Return whether an outcome may replace the stored one: only a load changes the outcomes in it.

    The load may also have ended during the attempt, and written the delivery.
    """
    in_load = func.coalesce(sink_outcomes.c.held_scope, "").startswith(LOAD_SCOPE)
    is_written = sink_outcomes.c.state == SinkOutcomeState.DONE
    waits_again = func.coalesce(new.held_scope, "").startswith(LOAD_SCOPE)
    return ~in_load & ~(is_written & waits_again)


def _to_row(result: ResultRow) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__slots__}
