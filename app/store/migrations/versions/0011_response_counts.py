"""Count the responses of the web processes."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "rapidbridge_response_counts",
        sa.Column("period_start", sa.DateTime(timezone=True), primary_key=True),
        sa.Column("status", sa.Text, primary_key=True),
        sa.Column("cause", sa.Text, primary_key=True, server_default=""),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
    )
