"""The trace of a delivery, and the ends of conditions that a subscriber receives."""

import sqlalchemy as sa

from app.store.migrations.online import add_columns

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add two columns; no row is rewritten."""
    for table, column in (("deliveries", "traceparent"), ("notification_deliveries", "ending")):
        add_columns(f"rapidbridge_{table}", sa.Column(column, sa.Text, nullable=False, server_default=""))
