"""An inbox filled by SQL with any number of deliveries: settled, pending, or unvacuumed."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg

from app.store.schema import deliveries, runs, sink_outcomes
from benchmarks.environment import migrate_database

DELIVERIES_PER_RUN = 1_000
BODY = json.dumps(
    {
        "id": "6f0d7c52-6f1e-4c0f-9f59-1c8f6c0f0f4e",
        "event": "sync_job_run:record",
        "payload": {
            "integrated_account_id": "account",
            "resource": "crm/contacts",
            "method": "list",
            "records": [{"id": "c-1", "name": "Ada Lovelace", "email": "ada@example.com", "city": "London"}],
        },
    }
).encode()
# Two a second: ten million are two months.
_INTERVAL_MS = 500
# The first delivery's age in intervals for each delivery: deliveries added later are due as well.
_AGE_FACTOR = 1.3
# A delivery's columns, from its number n, its time `at` and its state.
_VALUES = {
    # As `delivery_id_for` makes them: a version 8 UUID that begins with the time in ms.
    "id": "(lpad(to_hex(ms), 12, '0') || '8' || left(hash, 3) || 'a' || right(hash, 15))::uuid",
    "received_at": "at + interval '200 ms'",
    "event_id": "hash::uuid::text",
    "event": "'sync_job_run:record'",
    "webhook_id": "md5('webhook')::uuid::text",
    "environment_id": "md5('environment')::uuid::text",
    "sync_job_id": "md5('job ' || mod(run, 20))::uuid::text",
    "sync_job_run_id": "md5('run ' || run)::uuid::text",
    "integrated_account_id": "md5('account ' || mod(run, 500))::uuid::text",
    "resource": "(ARRAY['crm/contacts', 'crm/accounts', 'ticketing/tickets'])[1 + mod(n, 3)]",
    "method": "'list'",
    "created_at": "at",
    "state": "state",
    "records": "records",
    "attempts": "records",
    "due_at": "at + interval '5200 ms'",
    "settled_at": "settled_at",
    "body_bytes": "%(body_bytes)s::bigint",
    "body": "%(body)s::bytea",
}
_FILL = f"""
INSERT INTO {deliveries.name} ({", ".join(_VALUES)})
SELECT {", ".join(_VALUES.values())} FROM (
    SELECT n, n / {DELIVERIES_PER_RUN} AS run, md5('delivery ' || n) AS hash,
        ms, to_timestamp(ms / 1000.0) AS at,
        %(state)s::text AS state, CASE %(state)s::text WHEN 'pending' THEN 0 ELSE 1 END AS records,
        CASE %(state)s::text WHEN 'pending' THEN NULL ELSE to_timestamp((ms + 900) / 1000.0) END AS settled_at
    FROM generate_series(%(first)s::int, %(last)s::int) AS n,
        LATERAL (SELECT %(started_ms)s::bigint + n::bigint * {_INTERVAL_MS} AS ms) AS moment
) AS generated"""
_FILL_OUTCOMES = f"""
INSERT INTO {sink_outcomes.name} (delivery_id, sink, state, written, updated_at)
SELECT id, 'main', 'done', 1, settled_at FROM {deliveries.name} WHERE state = 'settled'"""
_FILL_RUNS = f"""
INSERT INTO {runs.name} (sync_job_run_id, status, first_seen_at)
SELECT md5('run ' || n)::uuid::text, 'completed', now()
FROM generate_series(0, (%(number)s::int - 1) / {DELIVERIES_PER_RUN}) AS n"""
_TABLES = (deliveries, sink_outcomes, runs)
# The number of changed rows that autovacuum waits for, by the table's own settings or the server's.
_AUTOVACUUM_THRESHOLD = f"""
SELECT (COALESCE(own.threshold, current_setting(%(option)s || '_threshold'))::float
    + COALESCE(own.factor, current_setting(%(option)s || '_scale_factor'))::float * reltuples)::bigint
FROM pg_class, LATERAL (
    SELECT max(option_value) FILTER (WHERE option_name = %(option)s || '_threshold') AS threshold,
        max(option_value) FILTER (WHERE option_name = %(option)s || '_scale_factor') AS factor
    FROM pg_options_to_table(reloptions)
) AS own WHERE oid = '{deliveries.name}'::regclass"""
_LEASE_ALL = f"""
UPDATE {deliveries.name} SET due_at = due_at + interval '40 s', leased_until = due_at + interval '40 s',
    attempts = 1, leased_by = 'worker' WHERE state = 'pending'"""
_SETTLE_ALL = f"""
UPDATE {deliveries.name} SET state = 'settled', due_at = received_at, leased_until = NULL, leased_by = '',
    records = 1, settled_at = received_at + interval '1 s' WHERE state = 'pending'"""


def run_id_for(number: int) -> str:
    """Return the id of the run of this number; the oldest is 0."""
    return str(UUID(hashlib.md5(f"run {number}".encode()).hexdigest()))


def fill_inbox(url: str, count: int, *, is_pending: bool) -> None:
    """Create the tables and deliveries: all pending and due, or all settled, with their outcomes."""
    migrate_database(url)
    with connect_without_limits(url) as connection:
        _add_deliveries(connection, count, "pending" if is_pending else "settled", inbox_size=count)
        connection.execute(_FILL_OUTCOMES)
        connection.execute(_FILL_RUNS, {"number": count})
        for table in _TABLES:
            # Vacuumed only by `vacuum_tables`: every size is measured in the same condition.
            connection.execute(f"ALTER TABLE {table.name} SET (autovacuum_enabled = off)")
    vacuum_tables(url)


def add_backlog(url: str, inbox_size: int) -> int:
    """Add pending and due deliveries, as many as come before autovacuum renews the statistics.

    inbox_size: the number of deliveries that the inbox was filled with. Returns the number added: at least
    those of a run.
    """
    with connect_without_limits(url) as connection:
        count = max(DELIVERIES_PER_RUN, _read_threshold(connection, "autovacuum_analyze"))
        _add_deliveries(connection, count, "pending", inbox_size=inbox_size, first=inbox_size)
        connection.execute("CHECKPOINT")
    return count


def age_inbox(url: str, inbox_size: int) -> int:
    """Settle all pending deliveries, vacuum, then add and settle more until autovacuum would run again.

    inbox_size: the number of deliveries that the inbox was filled with. Returns the number settled since the
    vacuum; each leaves two dead rows.
    """
    with connect_without_limits(url) as connection:
        pending = connection.execute(_LEASE_ALL).rowcount
        connection.execute(_SETTLE_ALL)
        vacuum_tables(url)
        count = _read_threshold(connection, "autovacuum_vacuum") // 2
        _add_deliveries(connection, count, "pending", inbox_size=inbox_size, first=inbox_size + pending)
        connection.execute(_LEASE_ALL)
        connection.execute(_SETTLE_ALL)
        connection.execute(f"ANALYZE {deliveries.name}")
        connection.execute("CHECKPOINT")
    return count


def vacuum_tables(url: str) -> None:
    """Vacuum and analyze, as autovacuum does in time, and write a checkpoint."""
    with connect_without_limits(url) as connection:
        for table in _TABLES:
            connection.execute(f"VACUUM (ANALYZE, INDEX_CLEANUP ON) {table.name}")
        connection.execute("CHECKPOINT")


@contextmanager
def connect_without_limits(url: str) -> Iterator[psycopg.Connection]:
    """Connect without the timeouts of the service's own statements; every statement commits."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        yield connection


def _add_deliveries(
    connection: psycopg.Connection, count: int, state: str, *, inbox_size: int, first: int = 0
) -> None:
    """Add deliveries in this state. first: the number of the first; inbox_size: sets their times."""
    started_at = datetime.now(UTC) - timedelta(milliseconds=_INTERVAL_MS * _AGE_FACTOR * inbox_size, hours=1)
    parameters = {
        "first": first,
        "last": first + count - 1,
        "started_ms": int(started_at.timestamp() * 1000),
        "state": state,
        "body": zlib.compress(BODY, 1),
        "body_bytes": len(BODY),
    }
    connection.execute(_FILL, parameters)


def _read_threshold(connection: psycopg.Connection, option: str) -> int:
    row = connection.execute(_AUTOVACUUM_THRESHOLD, {"option": option}).fetchone()
    assert row is not None
    threshold: int = row[0]
    return threshold
