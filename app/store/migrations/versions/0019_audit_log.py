"""Record the actions of people."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "rapidbridge_audit_log",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False, server_default=""),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, server_default="1"),
    )
    op.create_index("rapidbridge_audit_log_at", "rapidbridge_audit_log", ["at", "id"])
