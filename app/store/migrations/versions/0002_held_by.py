"""Record the worker of a delivery; index the oldest pending one."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Replace the column, add the index."""
    op.add_column("rapidbridge_deliveries", sa.Column("held_by", sa.Text, nullable=False, server_default=""))
    op.execute(sa.text("UPDATE rapidbridge_deliveries SET held_by = 'unknown' WHERE in_hand"))
    op.drop_column("rapidbridge_deliveries", "in_hand")
    pending = sa.text("state = 'pending'")
    op.create_index(
        "rapidbridge_deliveries_pending",
        "rapidbridge_deliveries",
        ["received_at"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
