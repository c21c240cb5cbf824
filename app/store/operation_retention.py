"""Retention of operations and replays: delete those that ended long ago."""

from datetime import datetime, timedelta

from sqlalchemy import Table, delete, exists, select

from app.database.engine import Database
from app.store.models import DeliveryState
from app.store.schema import deliveries, operations, replays

KEPT_FOR = timedelta(days=90)
_PAGE_SIZE = 500


def delete_old_operations(database: Database, *, now: datetime) -> int:
    """Delete the operations and replays that ended 90 days ago or earlier; return the number of rows.

    A replay stays while one of its deliveries is pending: workers read its configuration. Raises
    StoreUnavailable.
    """
    return sum(_delete_old(database, table, before=now - KEPT_FOR) for table in (operations, replays))


def _delete_old(database: Database, table: Table, *, before: datetime) -> int:
    has_pending = exists().where(
        deliveries.c.replay_id == table.c.id,
        # Not an equation, so that the index on replay and state is used; see app/store/replays.py.
        deliveries.c.state.in_((DeliveryState.PENDING, "")),
    )
    page = select(table.c.id).where(table.c.finished_at <= before, ~has_pending).limit(_PAGE_SIZE)
    number = 0
    while ids := database.read(page):
        number += database.execute(delete(table).where(table.c.id.in_([row.id for row in ids])))
    return number
