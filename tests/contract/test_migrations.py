"""A store of an earlier revision keeps its rows when it is migrated."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import inspect, text

from app.database.engine import Database, open_database
from app.store.migrate import is_current, migrate
from tests.support.old_store import upgrade_to

ID = "0190b1a000008000800000000000000a"
TIME = "2026-11-26 10:00:00+00:00"
# Rows of revision 0007, by table and column; the values of renamed columns are all different.
ROWS: dict[str, dict[str, Any]] = {
    "deliveries": {
        "id": ID, "received_at": TIME, "state": "pending", "due_at": TIME, "body_bytes": 1, "body": b"x",
        "held_by": "worker-1", "replaced": 7, "discarded": "not ours",
    },
    "outcomes": {"delivery_id": ID, "sink": "main", "state": "failing", "updated_at": TIME},
    "dead_records": {
        "delivery_id": ID, "sink": "main", "ordinal": 1, "reason": "too_deep", "raw": "{}", "died_at": TIME,
        "discarded": "a test",
    },
    "replays": {"id": ID, "asked": "{}", "started_at": TIME, "deliveries": 9},
    "runs": {
        "sync_job_run_id": "r1", "first_seen_at": TIME, "refused": "no", "settled_at": TIME,
        "stop_cause": "limit", "stop_asked_at": TIME, "log": '{"a": 1}',
    },
    "notices": {
        "id": ID, "kind": "run.incomplete", "subject": "r1", "cause": "c", "at": TIME, "told": '{"b": 2}',
        "over_at": TIME, "posted_at": TIME,
    },
    "posts": {"notice_id": ID, "endpoint": "ops", "state": "pending", "due_at": TIME},
}  # fmt: skip
# The same values after revision 0008.
RENAMED: dict[str, dict[str, Any]] = {
    "deliveries": {"leased_by": "worker-1", "replaced_characters": 7, "discard_reason": "not ours"},
    "sink_outcomes": {"sink": "main", "state": "failing"},
    "dead_records": {"discard_reason": "a test"},
    "replays": {"request": "{}", "requeued_deliveries": 9},
    "runs": {"refusal_reason": "no", "stop_reason": "limit", "log_totals": '{"a": 1}'},
    "notifications": {"kind": "run.incomplete", "payload": '{"b": 2}'},
    "notification_deliveries": {"subscriber": "ops", "state": "pending"},
}
RENAMED_TIMES = {
    "runs": ["reconciled_at", "stop_sent_at"],
    "notifications": ["occurred_at", "closed_at", "fanned_out_at"],
}


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    opened = open_database(empty_url)
    upgrade_to(opened, "0007")
    yield opened
    opened.close()


def test_plain_names_keep_every_value(database: Database) -> None:
    _insert(database)

    assert migrate(database)[0] == "0007"

    assert is_current(database)
    with database.autocommit() as connection:
        for table, values in RENAMED.items():
            columns = ", ".join(values)
            row = connection.execute(text(f"SELECT {columns} FROM rapidbridge_{table}")).one()
            assert row._asdict() == values, table
    for table, names in RENAMED_TIMES.items():
        with database.autocommit() as connection:
            times = connection.execute(text(f"SELECT {', '.join(names)} FROM rapidbridge_{table}")).one()
            assert all(str(time).startswith("2026-11-26 10:00:00") for time in times), table


def test_plain_names_leave_no_old_name(database: Database) -> None:
    _insert(database)
    migrate(database)

    inspector = inspect(database.engine)
    tables = {name.removeprefix("rapidbridge_") for name in inspector.get_table_names()}
    assert not tables & {"outcomes", "notices", "posts"}
    for table, values in RENAMED.items():
        columns = {column["name"] for column in inspector.get_columns(f"rapidbridge_{table}")}
        assert columns >= set(values) | set(RENAMED_TIMES.get(table, ()))
        assert not columns & {"held_by", "asked", "told", "over_at", "stop_cause", "notice_id"}, table
    with database.autocommit() as connection:
        if database.dialect.name == "postgresql":
            statement = "SELECT indexname FROM pg_indexes WHERE tablename LIKE 'rapidbridge%'"
        else:
            statement = "SELECT name FROM sqlite_master WHERE type = 'index'"
        indexes = " ".join(connection.execute(text(statement)).scalars())
    assert not any(
        old in indexes
        for old in ("stranded", "runs_unsettled", "notices_", "posts_", "runs_seen", "e_outcomes")
    )


def _insert(database: Database) -> None:
    for table, row in ROWS.items():
        columns = ", ".join(f'"{name}"' for name in row)
        marks = ", ".join(f":{name}" for name in row)
        with database.transaction() as connection:
            connection.execute(
                text(f"INSERT INTO rapidbridge_{table} ({columns}) VALUES ({marks})"),
                row,
            )
