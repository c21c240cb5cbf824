"""Facts about runs, and notifications."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add columns, tables and indexes; replace the index on a run's deliveries."""
    if op.get_context().dialect.name == "postgresql":
        # Building the index reads the whole table, which may exceed the statement timeout.
        op.execute("SET LOCAL statement_timeout = 0")
    op.create_index(
        "rapidbridge_deliveries_of_run", "rapidbridge_deliveries", ["sync_job_run_id", "received_at"]
    )
    op.drop_index("rapidbridge_deliveries_run", "rapidbridge_deliveries")
    _index("outcomes_failing", "outcomes", "sink", where="state = 'failing'")
    for name in ("webhook_id", "refused", "stop_cause"):
        op.add_column("rapidbridge_runs", _text(name))
    for name in ("stopped_at", "settled_at", "stop_asked_at"):
        op.add_column("rapidbridge_runs", sa.Column(name, _TIME))
    op.add_column("rapidbridge_runs", sa.Column("log", sa.Text))
    # Runs that ended before this release get no notification.
    op.execute(sa.text("UPDATE rapidbridge_runs SET settled_at = first_seen_at WHERE status_rank >= 2"))
    _index("runs_unsettled", "runs", "first_seen_at", where="settled_at IS NULL")
    _index("runs_seen", "runs", "first_seen_at")
    _create_notices()


def _create_notices() -> None:
    op.create_table(
        "rapidbridge_notices",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("over_at", _TIME),
        sa.Column("posted_at", _TIME),
    )
    _index("notices_lasting", "notices", "kind", "subject", where="over_at IS NULL", unique=True)
    _index("notices_unposted", "notices", "at", where="posted_at IS NULL")
    _index("notices_subject", "notices", "subject", "at")
    op.create_table(
        "rapidbridge_posts",
        sa.Column("notice_id", sa.Uuid, primary_key=True),
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("due_at", _TIME, nullable=False),
        _text("message"),
    )
    _index("posts_due", "posts", "due_at", where="state = 'pending'")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _index(name: str, table: str, *columns: str, where: str = "", unique: bool = False) -> None:
    condition = sa.text(where) if where else None
    op.create_index(
        f"rapidbridge_{name}",
        f"rapidbridge_{table}",
        list(columns),
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )
