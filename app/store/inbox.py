"""The inbox: commits incoming deliveries and reads their bodies."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import DBAPIError

from app.database.engine import Database
from app.store.bulk_insert import BulkInsert, InsertResult, build_insert
from app.store.encryption_keys import EncryptionKeys
from app.store.envelope_columns import ENVELOPE_COLUMNS, to_columns
from app.store.models import DeliveryState, IncomingDelivery, Receipt, RunUpdate
from app.store.run_updates import upsert_runs
from app.store.schema import deliveries
from app.store.stored_body import decode_body, encode_bodies
from app.truto.runs import status_rank

# The web process enqueues after its commit; the feeder enqueues only if that was lost.
_ENQUEUE_GRACE = timedelta(seconds=5)
_NO_GRACE = timedelta(0)
_TRACEPARENT = "traceparent"
# The columns of `_build_row`; all others have defaults.
_COLUMNS = (
    *(column.name for column in ENVELOPE_COLUMNS),
    *("id", "received_at", "state", "reason", "duplicates", "due_at", "settled_at", "body_bytes", "body"),
)
# The status of a run that a policy refused; Truto has no such status.
_RUN_REFUSED = "refused"
_Row = Mapping[str, Any]

_STORED_STATEMENT = select(deliveries.c.id, deliveries.c.body).where(
    deliveries.c.id.in_(bindparam("ids", expanding=True))
)


class Inbox:
    """The deliveries table. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._keys = EncryptionKeys(database)
        self._insert = build_insert(database.dialect, _COLUMNS)
        self._insert_traced = build_insert(database.dialect, (*_COLUMNS, _TRACEPARENT))

    def put(self, incoming: Sequence[IncomingDelivery]) -> list[Receipt]:
        """Commit deliveries together; return their receipts in the same order.

        A known delivery stays unchanged, and its receipt repeats the first decision about it. A refused
        delivery also writes its run, because no worker will ever process that delivery.
        """
        ids = [delivery.delivery_id for delivery in incoming]
        copies = Counter(ids)
        self._keys.register()
        bodies = encode_bodies(self.database.keyring, ids, [delivery.body for delivery in incoming])
        rows: dict[UUID, _Row] = {}
        for id_, delivery, body in zip(ids, incoming, bodies, strict=True):
            # If a group has the same bytes twice, the first decision counts.
            rows.setdefault(id_, _build_row(id_, delivery, body, copies[id_]))
        with self.database.translate_errors():
            results = self._write(
                rows, [delivery for delivery in incoming if delivery.state == DeliveryState.REFUSED]
            )
        receipts, receipted = [], set[UUID]()
        for id_ in ids:
            duplicates, refusal_reason = results[id_]
            # Only the first copy in a group can be new.
            is_duplicate = id_ in receipted or duplicates >= copies[id_]
            receipts.append(Receipt(id_, is_duplicate=is_duplicate, refusal_reason=refusal_reason))
            receipted.add(id_)
        return receipts

    def _write(
        self, rows: Mapping[UUID, _Row], refused: Sequence[IncomingDelivery]
    ) -> dict[UUID, InsertResult]:
        # Ordered by key, so that two processes with the same rows cannot deadlock.
        ordered = [rows[id_] for id_ in sorted(rows)]
        for attempt in (1, 2):
            try:
                return self._write_refused(ordered, refused) if refused else self._write_plain(ordered)
            except DBAPIError as error:
                # A pooled connection may have died while idle, although the database is up: try once more.
                if attempt == 2 or not error.connection_invalidated:
                    raise
        raise AssertionError("unreachable")

    def _write_plain(self, rows: Sequence[_Row]) -> dict[UUID, InsertResult]:
        insert, rows = self._choose_insert(rows)
        return insert.insert_and_commit(self.database.engine, rows)

    def _write_refused(
        self, rows: Sequence[_Row], refused: Sequence[IncomingDelivery]
    ) -> dict[UUID, InsertResult]:
        insert, rows = self._choose_insert(rows)
        with self.database.engine.begin() as connection:
            results = insert.insert(connection, rows)
            upsert_runs(connection, _build_run_updates(refused, results))
        return results

    def _choose_insert(self, rows: Sequence[_Row]) -> tuple[BulkInsert, Sequence[_Row]]:
        # Without tracing, no delivery has a trace, and the statement has one column less.
        if any(_TRACEPARENT in row for row in rows):
            return self._insert_traced, [{_TRACEPARENT: "", **row} for row in rows]
        return self._insert, rows

    def read_body(self, delivery_id: UUID) -> bytes:
        """Return the body of a delivery, the bytes that Truto signed; raises BodyPruned."""
        return decode_body(self.database.keyring, delivery_id, self.read_stored([delivery_id])[delivery_id])

    def read_stored(self, ids: Sequence[UUID]) -> dict[UUID, bytes]:
        """Return the bodies of deliveries by id, as they are stored."""
        return {row.id: row.body for row in self.database.read(_STORED_STATEMENT, {"ids": ids})}

    def count_by_state(self) -> dict[str, int]:
        """Return the number of deliveries in each state, and of repeated deliveries as "duplicate"."""
        by_state = select(deliveries.c.state, func.count(), func.sum(deliveries.c.duplicates))
        rows = self.database.read(by_state.group_by(deliveries.c.state))
        return {state: count for state, count, _ in rows} | {"duplicate": sum(copies for *_, copies in rows)}


def _build_run_updates(
    refused: Sequence[IncomingDelivery], results: Mapping[UUID, InsertResult]
) -> Iterator[RunUpdate]:
    """Yield the runs of refused deliveries, unless the same delivery was accepted before."""
    for delivery in refused:
        envelope, reason = delivery.envelope, results[delivery.delivery_id].refusal_reason
        if reason is not None and envelope.sync_job_run_id:
            yield RunUpdate(
                sync_job_run_id=envelope.sync_job_run_id,
                sync_job_id=envelope.sync_job_id,
                integrated_account_id=envelope.integrated_account_id,
                environment_id=envelope.environment_id,
                first_seen_at=delivery.received_at,
                webhook_id=envelope.webhook_id,
                status=_RUN_REFUSED,
                status_at=envelope.created_at or delivery.received_at,
                status_rank=status_rank(_RUN_REFUSED),
                stopped_at=delivery.received_at,
                refusal_reason=reason,
            )


def _build_row(delivery_id: UUID, delivery: IncomingDelivery, body: bytes, copies: int) -> _Row:
    return {
        **to_columns(delivery.envelope),
        "id": delivery_id,
        "received_at": delivery.received_at,
        "state": delivery.state,
        "reason": delivery.reason,
        "duplicates": copies - 1,
        "due_at": delivery.received_at + (_NO_GRACE if delivery.is_due else _ENQUEUE_GRACE),
        "settled_at": None if delivery.state == DeliveryState.PENDING else delivery.received_at,
        "body_bytes": len(delivery.body),
        "body": body,
        **({_TRACEPARENT: delivery.traceparent} if delivery.traceparent else {}),
    }
