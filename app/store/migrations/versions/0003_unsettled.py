"""Finds the oldest pending delivery in an index that PostgreSQL cannot take for the one on what is due."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Replace the index by the same under another condition."""
    if op.get_context().dialect.name == "postgresql":
        # It reads the whole table, which may take longer than the service's own statements may.
        op.execute("SET LOCAL statement_timeout = 0")
    unsettled = sa.text("settled_at IS NULL")
    op.create_index(
        "rapidbridge_deliveries_unsettled",
        "rapidbridge_deliveries",
        ["received_at"],
        sqlite_where=unsettled,
        postgresql_where=unsettled,
    )
    op.drop_index("rapidbridge_deliveries_pending", "rapidbridge_deliveries")
