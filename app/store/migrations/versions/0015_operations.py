"""Operations, the priority of pending deliveries, and indexes to group failures.

The indexes on failures have no entry for any other delivery, so that accepting and settling cost nothing.
"""

from uuid import UUID

import sqlalchemy as sa
from alembic import op

from app.store.migrations.online import add_columns, build_index, commit_step, drop_index, is_postgresql

revision = "0015"
down_revision = "0014"

_DELIVERIES, _DEAD_RECORDS, _OPERATIONS = (
    f"rapidbridge_{table}" for table in ("deliveries", "dead_records", "operations")
)
_TIME = sa.DateTime(timezone=True)
# ruff: noqa: S608  # names of this file
_FILL_ALL = (
    f"UPDATE {_DEAD_RECORDS} SET resource = coalesce((SELECT d.resource FROM {_DELIVERIES} d "
    f"WHERE d.id = {_DEAD_RECORDS}.delivery_id), '') WHERE discard_reason = ''"
)
# Returns the position of the last row. Locked in the order of the workers, so that none of them deadlocks.
_FILL_PAGE = (
    f"WITH page AS (SELECT delivery_id, sink, ordinal FROM {_DEAD_RECORDS} "
    "WHERE discard_reason = '' AND resource = '' "
    "AND (delivery_id, sink, ordinal) > (:delivery_id, :sink, :ordinal) "
    "ORDER BY delivery_id, sink, ordinal LIMIT 1000 FOR UPDATE), "
    f"filled AS (UPDATE {_DEAD_RECORDS} r SET resource = d.resource FROM page p "
    f"JOIN {_DELIVERIES} d ON d.id = p.delivery_id "
    "WHERE r.delivery_id = p.delivery_id AND r.sink = p.sink AND r.ordinal = p.ordinal) "
    "SELECT delivery_id, sink, ordinal FROM page ORDER BY delivery_id DESC, sink DESC, ordinal DESC LIMIT 1"
)
_FAILED = "state IN ('dead', 'quarantined', 'unrouted', 'late')"


def upgrade() -> None:
    """Add columns, indexes and a table; replace the index of due deliveries."""
    add_columns(_DELIVERIES, sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"))
    add_columns(_DEAD_RECORDS, sa.Column("resource", sa.Text, nullable=False, server_default=""))
    _fill_resources()
    _build_index("deliveries_due_by_priority", _DELIVERIES, "priority", "due_at", where="state = 'pending'")
    _build_index("deliveries_of_replay", _DELIVERIES, "replay_id", "state", where="replay_id IS NOT NULL")
    _build_index(
        "deliveries_failed_by_cause",
        _DELIVERIES,
        *("state", "reason", "resource", "received_at", "id"),
        where=_FAILED,
    )
    _build_index(
        "deliveries_failed_of_account",
        _DELIVERIES,
        *("integrated_account_id", "received_at"),
        where=_FAILED,
    )
    _build_index(
        "dead_records_by_cause",
        _DEAD_RECORDS,
        *("reason", "sink", "resource", "died_at", "delivery_id"),
        where="discard_reason = ''",
    )
    # After its replacement was built.
    drop_index("rapidbridge_deliveries_due", _DELIVERIES)
    _create_operations()


def _fill_resources() -> None:
    """Copy the resources of deliveries to their dead records, in short transactions."""
    if not is_postgresql():
        op.execute(_FILL_ALL)
        return
    position: dict[str, object] | None = {"delivery_id": UUID(int=0), "sink": "", "ordinal": -1}
    while position is not None:
        row = op.get_bind().execute(sa.text(_FILL_PAGE), position).one_or_none()
        position = dict(row._mapping) if row else None
        commit_step()


def _create_operations() -> None:
    op.create_table(
        _OPERATIONS,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("request_digest", sa.Text, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False, server_default=""),
        sa.Column("requested_from", sa.Text, nullable=False, server_default=""),
        sa.Column("requested_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("total", sa.BigInteger),
        sa.Column("done", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("cursor_at", _TIME),
        sa.Column("cursor_id", sa.Uuid),
        sa.Column("leased_by", sa.Text, nullable=False, server_default=""),
        sa.Column("leased_until", _TIME),
        sa.Column("error", sa.Text, nullable=False, server_default=""),
    )
    unfinished = sa.text("finished_at IS NULL")
    op.create_index(
        "rapidbridge_operations_unfinished",
        _OPERATIONS,
        ["request_digest"],
        unique=True,
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_index("rapidbridge_operations_requested", _OPERATIONS, ["requested_at", "id"])


def _build_index(name: str, table: str, *columns: str, where: str) -> None:
    build_index(f"rapidbridge_{name}", table, *columns, where=where)
