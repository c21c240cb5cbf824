"""Record the workers and their configuration, and the configuration of a replay."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add a table, and columns to replays."""
    op.create_table(
        "rapidbridge_workers",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("config", sa.Text, nullable=False, server_default=""),
        sa.Column("digest", sa.Text, nullable=False, server_default=""),
    )
    op.add_column("rapidbridge_replays", sa.Column("config", sa.Text, nullable=False, server_default=""))
    op.add_column("rapidbridge_replays", sa.Column("config_at", sa.DateTime(timezone=True)))
