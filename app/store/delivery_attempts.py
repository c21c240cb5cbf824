"""The attempts at deliveries that were not settled at the first one."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, tuple_

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.models import DeliveryAttempt, DeliveryState
from app.store.schema import delivery_attempts

# Of a delivery. While a sink fails, an attempt is made every ten minutes for three days.
MAX_KEPT = 20
MAX_MESSAGE_LENGTH = 500
_KEY = tuple(delivery_attempts.primary_key)


def save_attempts(connection: Connection, attempts: Sequence[DeliveryAttempt]) -> None:
    """Write attempts in the caller's transaction, and delete all but the newest MAX_KEPT of each delivery.

    Messages are cut. The caller has locked the deliveries.
    """
    if not attempts:
        return
    rows = [
        {name: getattr(attempt, name) for name in attempt.__slots__}
        | {"message": attempt.message[:MAX_MESSAGE_LENGTH]}
        for attempt in attempts
    ]
    insert = insert_into(connection.dialect.name, delivery_attempts).on_conflict_do_nothing()
    connection.execute(insert, rows)
    newest = (delivery_attempts.c.finished_at.desc(), delivery_attempts.c.attempt.desc())
    place = func.row_number().over(partition_by=delivery_attempts.c.delivery_id, order_by=newest)
    numbered = (
        select(*_KEY, place.label("place"))
        .where(delivery_attempts.c.delivery_id.in_([attempt.delivery_id for attempt in attempts]))
        .subquery()
    )
    surplus = select(*(numbered.c[column.name] for column in _KEY)).where(numbered.c.place > MAX_KEPT)
    connection.execute(delete(delivery_attempts).where(tuple_(*_KEY).in_(surplus)))


def delete_attempts(connection: Connection, ids: Sequence[UUID]) -> None:
    """Delete the attempts at these deliveries in the caller's transaction."""
    connection.execute(delete(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(ids)))


def read_attempts(database: Database, delivery_id: UUID) -> list[DeliveryAttempt]:
    """Return the kept attempts at a delivery, oldest first; raises StoreUnavailable."""
    statement = (
        select(delivery_attempts)
        .where(delivery_attempts.c.delivery_id == delivery_id)
        .order_by(delivery_attempts.c.finished_at, delivery_attempts.c.attempt)
    )
    return [
        DeliveryAttempt(**{**row._mapping, "state": DeliveryState(row.state)})
        for row in database.read(statement)
    ]
