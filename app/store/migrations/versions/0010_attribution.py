"""Columns for the account and the run of deliveries that name none."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the columns; no row is rewritten."""
    for name in ("account_source", "run_source"):
        op.add_column("rapidbridge_deliveries", sa.Column(name, sa.Text, nullable=False, server_default=""))
