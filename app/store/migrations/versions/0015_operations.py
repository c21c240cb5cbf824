"""Operations, the priority of pending deliveries, and indexes to group failures.

The indexes on failures have no entry for any other delivery, so that accepting and settling cost nothing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_DELIVERIES, _DEAD_RECORDS, _OPERATIONS = (
    f"rapidbridge_{table}" for table in ("deliveries", "dead_records", "operations")
)
_TIME = sa.DateTime(timezone=True)
_FAILED = "state IN ('dead', 'quarantined', 'unrouted', 'late')"


def upgrade() -> None:
    """Add a table, columns and indexes; replace the index of due deliveries."""
    if op.get_context().dialect.name == "postgresql":
        # Building an index reads the whole table, which may exceed the statement timeout.
        op.execute("SET LOCAL statement_timeout = 0")
    _create_operations()
    op.add_column(_DELIVERIES, sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"))
    op.add_column(_DEAD_RECORDS, sa.Column("resource", sa.Text, nullable=False, server_default=""))
    op.execute(
        f"UPDATE {_DEAD_RECORDS} SET resource = coalesce((SELECT d.resource FROM {_DELIVERIES} d "  # noqa: S608  # names of this file
        f"WHERE d.id = {_DEAD_RECORDS}.delivery_id), '') WHERE discard_reason = ''"
    )
    _create_index("deliveries_due_by_priority", _DELIVERIES, "priority", "due_at", where="state = 'pending'")
    _create_index("deliveries_of_replay", _DELIVERIES, "replay_id", "state", where="replay_id IS NOT NULL")
    _create_index(
        "deliveries_failed_by_cause",
        _DELIVERIES,
        *("state", "reason", "resource", "received_at", "id"),
        where=_FAILED,
    )
    _create_index(
        "deliveries_failed_of_account",
        _DELIVERIES,
        *("integrated_account_id", "received_at"),
        where=_FAILED,
    )
    _create_index(
        "dead_records_by_cause",
        _DEAD_RECORDS,
        *("reason", "sink", "resource", "died_at", "delivery_id"),
        where="discard_reason = ''",
    )
    # Last, because it locks the table until the end of the transaction.
    op.drop_index("rapidbridge_deliveries_due", _DELIVERIES)


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
    _create_index(
        "operations_unfinished", _OPERATIONS, "request_digest", where="finished_at IS NULL", unique=True
    )
    op.create_index("rapidbridge_operations_requested", _OPERATIONS, ["requested_at", "id"])


def _create_index(name: str, table: str, *columns: str, where: str, unique: bool = False) -> None:
    predicate = sa.text(where)
    op.create_index(
        f"rapidbridge_{name}",
        table,
        list(columns),
        unique=unique,
        sqlite_where=predicate,
        postgresql_where=predicate,
    )
