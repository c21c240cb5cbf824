"""The first tables: deliveries, outcomes, dead records, record errors, runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "rapidbridge_deliveries",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("received_at", _TIME, nullable=False),
        _text("event_id"),
        _text("event"),
        _text("webhook_id"),
        _text("environment_id"),
        _text("sync_job_id"),
        _text("sync_job_run_id"),
        _text("integrated_account_id"),
        _text("resource"),
        _text("method"),
        sa.Column("created_at", _TIME),
        sa.Column("state", sa.Text, nullable=False),
        _text("reason"),
        sa.Column("records", sa.Integer, nullable=False, server_default="0"),
        sa.Column("replaced", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("in_hand", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("lost_attempts", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_at", _TIME, nullable=False),
        sa.Column("leased_until", _TIME),
        sa.Column("settled_at", _TIME),
        sa.Column("body_bytes", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    pending = sa.text("state = 'pending'")
    op.create_index(
        "rapidbridge_deliveries_due",
        "rapidbridge_deliveries",
        ["due_at"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
    op.create_index(
        "rapidbridge_deliveries_run",
        "rapidbridge_deliveries",
        ["sync_job_run_id", "resource", "method"],
    )
    op.create_table(
        "rapidbridge_outcomes",
        sa.Column("delivery_id", sa.Uuid, primary_key=True),
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("written", sa.Integer, nullable=False, server_default="0"),
        sa.Column("dead", sa.Integer, nullable=False, server_default="0"),
        _text("reason"),
        _text("message"),
        sa.Column("updated_at", _TIME, nullable=False),
    )
    op.create_table(
        "rapidbridge_dead_records",
        sa.Column("delivery_id", sa.Uuid, primary_key=True),
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("ordinal", sa.Integer, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        _text("message"),
        sa.Column("raw", sa.Text, nullable=False),
        sa.Column("died_at", _TIME, nullable=False),
    )
    op.create_table(
        "rapidbridge_record_errors",
        sa.Column("delivery_id", sa.Uuid, primary_key=True),
        sa.Column("ordinal", sa.Integer, primary_key=True),
        sa.Column("sync_job_run_id", sa.Text, nullable=False, index=True),
        _text("resource"),
        _text("method"),
        sa.Column("remote_status", sa.Integer),
        _text("message"),
        sa.Column("raw", sa.Text, nullable=False),
    )
    op.create_table(
        "rapidbridge_runs",
        sa.Column("sync_job_run_id", sa.Text, primary_key=True),
        _text("sync_job_id"),
        _text("integrated_account_id"),
        _text("environment_id"),
        _text("status"),
        sa.Column("status_at", _TIME),
        sa.Column("status_rank", sa.SmallInteger, nullable=False, server_default="-1"),
        sa.Column("first_seen_at", _TIME, nullable=False),
        sa.Column("run", sa.Text),
    )
    if op.get_context().dialect.name == "postgresql":
        # Bodies are compressed already. Out of line, they are not copied when a delivery is settled.
        op.execute("ALTER TABLE rapidbridge_deliveries ALTER COLUMN body SET STORAGE EXTERNAL")
