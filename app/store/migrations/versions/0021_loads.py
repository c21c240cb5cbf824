"""Loads: deliveries that a sink writes together."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "rapidbridge_loads",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("sink", sa.Text, nullable=False),
        sa.Column("planned_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deliveries", sa.Integer, nullable=False),
        sa.Column("body_bytes", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("leased_by", sa.Text, nullable=False, server_default=""),
        sa.Column("lost_attempts", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leased_until", sa.DateTime(timezone=True)),
        sa.Column("prepared", sa.Text, nullable=False, server_default=""),
    )
