"""A column for the progress of large deliveries in each sink."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the column; no row is rewritten."""
    op.add_column(
        "rapidbridge_sink_outcomes", sa.Column("progress", sa.Text, nullable=False, server_default="")
    )
