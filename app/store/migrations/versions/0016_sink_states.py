"""Pauses and failures of sinks, the deliveries that are held for them, and values that did not fit.

The new index also serves the queries of the one that it replaces.
"""

import sqlalchemy as sa
from alembic import op

from app.store.migrations.online import add_columns, build_index, drop_index

revision = "0016"
down_revision = "0015"

_OUTCOMES = "rapidbridge_sink_outcomes"


def upgrade() -> None:
    """Add two columns and two tables; replace the index on failing outcomes."""
    add_columns(
        _OUTCOMES,
        sa.Column("held_scope", sa.Text),
        sa.Column("held_received_at", sa.DateTime(timezone=True)),
    )
    build_index(
        "rapidbridge_sink_outcomes_waiting",
        _OUTCOMES,
        *("sink", "held_scope", "held_received_at"),
        where="state = 'failing'",
    )
    drop_index("rapidbridge_sink_outcomes_failing", _OUTCOMES)
    op.create_table(
        "rapidbridge_sink_states",
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True, server_default=""),
        sa.Column("paused_at", sa.DateTime(timezone=True)),
        sa.Column("paused_by", sa.Text, nullable=False, server_default=""),
        sa.Column("pause_reason", sa.Text, nullable=False, server_default=""),
        sa.Column("open_since", sa.DateTime(timezone=True)),
        sa.Column("retry_at", sa.DateTime(timezone=True)),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("message", sa.Text, nullable=False, server_default=""),
        sa.Column("last_write_at", sa.DateTime(timezone=True)),
        sa.Column("last_failure_at", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "rapidbridge_column_misfits",
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("resource", sa.Text, primary_key=True),
        sa.Column("column_name", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
    )
