"""An index for the turns of the accounts."""

from app.store.migrations.online import build_index

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Add an index on pending deliveries."""
    build_index(
        "rapidbridge_deliveries_due_by_account",
        "rapidbridge_deliveries",
        *("priority", "integrated_account_id", "due_at"),
        where="state = 'pending'",
    )
