"""Keep the arrivals by minute, the newest event of each webhook, and the totals of the workers."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add three tables."""
    op.create_table(
        "rapidbridge_arrivals",
        sa.Column("period_s", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("period_start", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("max_ms", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "rapidbridge_webhook_events",
        sa.Column("webhook_id", sa.Text, primary_key=True),
        sa.Column("last_event_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "rapidbridge_work_totals",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("label", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
