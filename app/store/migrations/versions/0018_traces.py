"""The trace of a delivery, and the ends of conditions that a subscriber receives."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add two columns; no row is rewritten."""
    op.add_column(
        "rapidbridge_deliveries", sa.Column("traceparent", sa.Text, nullable=False, server_default="")
    )
    op.add_column(
        "rapidbridge_notification_deliveries",
        sa.Column("ending", sa.Text, nullable=False, server_default=""),
    )
