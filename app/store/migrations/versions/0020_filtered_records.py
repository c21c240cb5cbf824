"""Count the records that a route leaves out."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add a column."""
    op.add_column(
        "rapidbridge_sink_outcomes", sa.Column("filtered", sa.Integer, nullable=False, server_default="0")
    )
