"""Replays, discarded deliveries and pruned bodies."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add columns, a table and indexes."""
    if op.get_context().dialect.name == "postgresql":
        # Building the index reads the whole table, which may exceed the statement timeout.
        op.execute("SET LOCAL statement_timeout = 0")
    op.add_column("rapidbridge_deliveries", sa.Column("pruned_at", _TIME))
    op.add_column("rapidbridge_deliveries", sa.Column("replay_id", sa.Uuid))
    for table in ("deliveries", "dead_records"):
        discarded = sa.Column("discarded", sa.Text, nullable=False, server_default="")
        op.add_column(f"rapidbridge_{table}", discarded)
    op.create_index("rapidbridge_deliveries_received", "rapidbridge_deliveries", ["received_at", "id"])
    stranded = sa.text("state IN ('dead', 'quarantined', 'unrouted', 'late')")
    op.create_index(
        "rapidbridge_deliveries_stranded",
        "rapidbridge_deliveries",
        ["received_at"],
        sqlite_where=stranded,
        postgresql_where=stranded,
    )
    op.create_table(
        "rapidbridge_replays",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("asked", sa.Text, nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("finished_at", _TIME),
        sa.Column("cursor_at", _TIME),
        sa.Column("cursor_id", sa.Uuid),
        sa.Column("deliveries", sa.BigInteger, nullable=False, server_default="0"),
    )
