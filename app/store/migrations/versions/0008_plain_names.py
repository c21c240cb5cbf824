"""Rename tables, columns and indexes to the words of docs/glossary.md."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_PREFIX = "rapidbridge_"
_TABLES = {
    "outcomes": "sink_outcomes",
    "notices": "notifications",
    "posts": "notification_deliveries",
}
# By the new names of the tables.
_COLUMNS = {
    "deliveries": {
        "held_by": "leased_by",
        "replaced": "replaced_characters",
        "discarded": "discard_reason",
    },
    "dead_records": {"discarded": "discard_reason"},
    "replays": {"asked": "request", "deliveries": "requeued_deliveries"},
    "runs": {
        "refused": "refusal_reason",
        "settled_at": "reconciled_at",
        "stop_cause": "stop_reason",
        "stop_asked_at": "stop_sent_at",
        "log": "log_totals",
    },
    "notifications": {
        "at": "occurred_at",
        "told": "payload",
        "over_at": "closed_at",
        "posted_at": "fanned_out_at",
    },
    "notification_deliveries": {"notice_id": "notification_id", "endpoint": "subscriber"},
}
# The old name, and the index under its new name: table, columns, predicate, uniqueness.
_INDEXES = {
    "outcomes_failing": ("sink_outcomes_failing", "sink_outcomes", ["sink"], "state = 'failing'", False),
    "deliveries_stranded": (
        "deliveries_failed",
        "deliveries",
        ["received_at"],
        "state IN ('dead', 'quarantined', 'unrouted', 'late')",
        False,
    ),
    "runs_unsettled": ("runs_unreconciled", "runs", ["first_seen_at"], "reconciled_at IS NULL", False),
    "runs_seen": ("runs_first_seen", "runs", ["first_seen_at"], "", False),
    "notices_lasting": (
        "notifications_open",
        "notifications",
        ["kind", "subject"],
        "closed_at IS NULL",
        True,
    ),
    "notices_unposted": (
        "notifications_not_fanned_out",
        "notifications",
        ["occurred_at"],
        "fanned_out_at IS NULL",
        False,
    ),
    "notices_subject": ("notifications_of_subject", "notifications", ["subject", "occurred_at"], "", False),
    "posts_due": (
        "notification_deliveries_due",
        "notification_deliveries",
        ["due_at"],
        "state = 'pending'",
        False,
    ),
}


def upgrade() -> None:
    """Rename in place: no row is rewritten."""
    for old, new in _TABLES.items():
        op.rename_table(_PREFIX + old, _PREFIX + new)
        if op.get_context().dialect.name == "postgresql":
            op.execute(f"ALTER INDEX {_PREFIX}{old}_pkey RENAME TO {_PREFIX}{new}_pkey")
    for table, columns in _COLUMNS.items():
        for old, new in columns.items():
            op.execute(f'ALTER TABLE {_PREFIX}{table} RENAME COLUMN "{old}" TO {new}')
    for old, index in _INDEXES.items():
        _rename_index(old, index)


def _rename_index(old: str, index: tuple[str, str, list[str], str, bool]) -> None:
    new, table, columns, predicate, is_unique = index
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"ALTER INDEX {_PREFIX}{old} RENAME TO {_PREFIX}{new}")
        return
    # SQLite cannot rename an index.
    op.drop_index(_PREFIX + old)
    where = sa.text(predicate) if predicate else None
    op.create_index(_PREFIX + new, _PREFIX + table, columns, unique=is_unique, sqlite_where=where)
