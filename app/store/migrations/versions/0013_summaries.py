"""Summaries of runs, and the customers' syncs."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from app.store.migrations.online import add_columns, build_index

revision = "0013"
down_revision = "0012"

_TIME = sa.DateTime(timezone=True)
_RUNS = "rapidbridge_runs"


def upgrade() -> None:
    """Add columns, indexes and a table; no row is rewritten."""
    add_columns(
        _RUNS,
        *_summary(),
        _number("revision"),
        *(sa.Column(name, _TIME) for name in ("last_delivery_at", "summarized_at", "erased_at")),
    )
    _index("runs_of_account", "integrated_account_id", "first_seen_at", "sync_job_run_id")
    _index("runs_of_sync", "integrated_account_id", "sync_job_id", "first_seen_at", "sync_job_run_id")
    _index("runs_with_gaps", "first_seen_at", "sync_job_run_id", where="gap_records > 0")
    _index("runs_unsummarized", "first_seen_at", where="summarized_at IS NULL")
    _index("runs_with_pending", "summarized_at", where="pending_deliveries > 0")
    op.create_table(
        "rapidbridge_syncs",
        sa.Column("integrated_account_id", sa.Text, primary_key=True),
        sa.Column("sync_job_id", sa.Text, primary_key=True),
        _text("environment_id"),
        _text("webhook_id"),
        sa.Column("newest_record_at", _TIME),
        _text("last_run_id"),
        sa.Column("last_run_at", _TIME),
        _text("status"),
        *_summary(),
        _number("recent_runs"),
        _number("incomplete_runs"),
        sa.Column("usual_interval_s", sa.BigInteger),
        sa.Column("expected_at", _TIME),
        sa.Column("summarized_at", _TIME),
    )


def _summary() -> list[sa.Column[Any]]:
    numbers = ("arrived", "written", "dead", "missing", "record_errors", "gap_records")
    return [
        _text("verdict"),
        sa.Column("fetched", sa.BigInteger),
        *map(_number, numbers),
        _text("gap_reasons"),
        _number("pending_deliveries"),
    ]


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _index(name: str, *columns: str, where: str = "") -> None:
    build_index(f"rapidbridge_{name}", _RUNS, *columns, where=where)
