"""Records that the filter of a route leaves out."""

import sqlalchemy as sa

from app.store.migrations.online import add_columns

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add a column; no row is rewritten."""
    add_columns(
        "rapidbridge_sink_outcomes", sa.Column("filtered", sa.Integer, nullable=False, server_default="0")
    )
