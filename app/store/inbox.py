"""Deliveries as received: the truth about what has arrived."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from app.database.engine import Store, one_statement, store_faults
from app.errors import BodyPruned
from app.store.bulk_insert import Kept, insert_for
from app.store.compression import compress, decompress
from app.store.facts import RunSeen
from app.store.models import Arrival, Receipt, identify
from app.store.run_updates import record_runs
from app.store.schema import deliveries
from app.truto.runs import rank

# After a commit the web process wakes a worker itself; the sweeper does so only if that was lost.
WAKE_GRACE_S = 5.0
# What a new row has; the rest has defaults.
_TOLD = tuple(name for name in Arrival.__dataclass_fields__ if name not in ("body", "digest", "id"))
_COLUMNS = (
    *_TOLD,
    *("id", "body", "duplicates", "due_at", "settled_at", "body_bytes"),
)
_REFUSED = "refused"
_Fields = Mapping[str, Any]


class Inbox:
    """The deliveries table. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, engine: Store) -> None:
        self._engine = engine
        self._insert = insert_for(engine.dialect, _COLUMNS)

    def put(self, arrivals: Sequence[Arrival]) -> list[Receipt]:
        """Commit arrivals together; the receipts come in the same order.

        What came before stays as it was, decisions included: its receipt tells what was decided then. A run
        that is refused is noted with it: no worker will ever take the delivery up and do so.
        """
        ids = [_id_of(arrival) for arrival in arrivals]
        copies = Counter(ids)
        bodies = compress([arrival.body for arrival in arrivals])
        rows: dict[UUID, _Fields] = {}
        for id_, arrival, body in zip(ids, arrivals, bodies, strict=True):
            # Of the same bytes twice in one group, the first decision holds.
            rows.setdefault(id_, _row(id_, arrival, body, copies[id_]))
        with store_faults():
            kept = self._write(rows, [arrival for arrival in arrivals if arrival.state == _REFUSED])
        receipts, seen = [], set[UUID]()
        for id_ in ids:
            duplicates, refused = kept[id_]
            # The first of a group may be new; the others never are.
            is_duplicate = id_ in seen or duplicates >= copies[id_]
            receipts.append(Receipt(id_, is_duplicate=is_duplicate, refused=refused))
            seen.add(id_)
        return receipts

    def _write(self, rows: Mapping[UUID, _Fields], refused: Sequence[Arrival]) -> dict[UUID, Kept]:
        # In the order of the key, so that two processes with the same rows cannot deadlock.
        ordered = [rows[id_] for id_ in sorted(rows)]
        for attempt in (1, 2):
            try:
                return self._write_refused(ordered, refused) if refused else self._write_plain(ordered)
            except DBAPIError as error:
                # A pooled connection that died while idle says nothing about the store: ask once more.
                if attempt == 2 or not error.connection_invalidated:
                    raise
        raise AssertionError("unreachable")

    def _write_plain(self, rows: Sequence[_Fields]) -> dict[UUID, Kept]:
        with one_statement(self._engine) as connection:
            return self._insert(connection, rows)

    def _write_refused(self, rows: Sequence[_Fields], refused: Sequence[Arrival]) -> dict[UUID, Kept]:
        with self._engine.begin() as connection:
            kept = self._insert(connection, rows)
            record_runs(connection, _runs_of(refused, kept))
        return kept

    def read_body(self, delivery_id: UUID) -> bytes:
        """Return a delivery's body, the bytes that were signed; raises BodyPruned."""
        return open_body(delivery_id, self.read_stored([delivery_id])[delivery_id])

    def read_stored(self, ids: Sequence[UUID]) -> dict[UUID, bytes]:
        """Return deliveries' bodies as they are stored: compressed."""
        statement = select(deliveries.c.id, deliveries.c.body).where(deliveries.c.id.in_(ids))
        with store_faults(), one_statement(self._engine) as connection:
            return {row.id: row.body for row in connection.execute(statement)}

    def count(self) -> dict[str, int]:
        """Return how many deliveries are in each state, and under "duplicate" how often one came again."""
        by_state = select(deliveries.c.state, func.count(), func.sum(deliveries.c.duplicates))
        with store_faults(), one_statement(self._engine) as connection:
            rows = connection.execute(by_state.group_by(deliveries.c.state)).all()
        return {state: number for state, number, _ in rows} | {"duplicate": sum(again for *_, again in rows)}


def open_body(delivery_id: UUID, stored: bytes) -> bytes:
    """Return a stored body as it came; raises BodyPruned, or ValueError for one that is damaged."""
    if not stored:
        raise BodyPruned("pruned", f"delivery {delivery_id}: its body was removed; it cannot be read again")
    return decompress(stored)


def _id_of(arrival: Arrival) -> UUID:
    return arrival.id or identify(arrival.event_id, arrival.created_at, arrival.digest)


def _runs_of(refused: Sequence[Arrival], kept: Mapping[UUID, Kept]) -> Iterator[RunSeen]:
    """Say what is known of runs that were refused, and not let in when the same delivery first came."""
    for arrival in refused:
        reason = kept[_id_of(arrival)].refused
        if reason is not None and arrival.sync_job_run_id:
            yield RunSeen(
                sync_job_run_id=arrival.sync_job_run_id,
                sync_job_id=arrival.sync_job_id,
                integrated_account_id=arrival.integrated_account_id,
                environment_id=arrival.environment_id,
                first_seen_at=arrival.received_at,
                webhook_id=arrival.webhook_id,
                status=_REFUSED,
                status_at=arrival.created_at or arrival.received_at,
                status_rank=rank(_REFUSED),
                stopped_at=arrival.received_at,
                refused=reason,
            )


def _row(delivery_id: UUID, arrival: Arrival, body: bytes, copies: int) -> _Fields:
    return {name: getattr(arrival, name) for name in _TOLD} | {
        "id": delivery_id,
        "duplicates": copies - 1,
        "due_at": arrival.received_at + timedelta(seconds=WAKE_GRACE_S),
        "settled_at": None if arrival.state == "pending" else arrival.received_at,
        "body_bytes": len(arrival.body),
        "body": body,
    }
