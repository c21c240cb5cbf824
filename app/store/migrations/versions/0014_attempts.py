"""A table of the attempts at deliveries that were not settled at the first one."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0012"
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "rapidbridge_delivery_attempts",
        sa.Column("delivery_id", sa.Uuid, primary_key=True),
        sa.Column("finished_at", _TIME, primary_key=True),
        sa.Column("attempt", sa.SmallInteger, primary_key=True),
        sa.Column("worker", sa.Text, nullable=False, server_default=""),
        sa.Column("started_at", _TIME),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
        sa.Column("due_at", _TIME),
    )
