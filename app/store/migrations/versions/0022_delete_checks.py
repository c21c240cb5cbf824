"""Rows that a run did not see."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

_TABLE = "rapidbridge_delete_checks"
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        _TABLE,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("sync_job_run_id", sa.Text, nullable=False),
        _text("sync_job_id"),
        _text("integrated_account_id"),
        sa.Column("resource", sa.Text, nullable=False),
        _text("method"),
        sa.Column("sink", sa.Text, nullable=False),
        _text("route_table"),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        _text("reason"),
        _text("message"),
        sa.Column("due_at", _TIME, nullable=False),
        _text("leased_by"),
        sa.Column("live_rows", sa.BigInteger),
        sa.Column("unseen_rows", sa.BigInteger),
        sa.Column("marked_rows", sa.BigInteger),
        sa.Column("started_at", _TIME),
        sa.Column("finished_at", _TIME),
        _text("approved_by"),
        sa.Column("approved_at", _TIME),
    )
    is_due = sa.text("state = 'due'")
    op.create_index(f"{_TABLE}_due", _TABLE, ["due_at"], sqlite_where=is_due, postgresql_where=is_due)
    is_held = sa.text("state = 'held_back'")
    op.create_index(f"{_TABLE}_held", _TABLE, ["created_at"], sqlite_where=is_held, postgresql_where=is_held)
    op.create_index(f"{_TABLE}_created", _TABLE, ["created_at", "id"])
    op.create_index(f"{_TABLE}_of_run", _TABLE, ["sync_job_run_id"])
    op.create_index(f"{_TABLE}_of_sync", _TABLE, ["integrated_account_id", "sync_job_id", "began_at"])


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")
