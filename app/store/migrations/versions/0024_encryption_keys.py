"""The ids of the keys that data is encrypted with."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "rapidbridge_encryption_keys",
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("first_used_at", sa.DateTime(timezone=True), nullable=False),
    )
