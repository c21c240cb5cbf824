"""Give the oldest unsettled delivery an index of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Replace the index by one with another condition."""
    if op.get_context().dialect.name == "postgresql":
        # Building the index reads the whole table, which may exceed the statement timeout.
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
