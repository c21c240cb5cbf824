"""Count the responses of the web processes, and index the notifications that /readyz counts."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add a table and two indexes."""
    op.create_table(
        "rapidbridge_response_counts",
        sa.Column("period_start", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("cause", sa.Text, primary_key=True, server_default=""),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("rapidbridge_notifications_of_kind", "rapidbridge_notifications", ["kind", "occurred_at"])
    op.create_index(
        "rapidbridge_notification_deliveries_dead",
        "rapidbridge_notification_deliveries",
        ["notification_id"],
        sqlite_where=sa.text("state = 'dead'"),
        postgresql_where=sa.text("state = 'dead'"),
    )
