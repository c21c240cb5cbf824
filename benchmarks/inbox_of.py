"""Fills a store with any number of deliveries by SQL, as months of traffic or as a backlog leaves it."""

import hashlib
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg

from app.database.engine import open_database
from app.store.migrate import migrate
from app.store.schema import deliveries, runs, sink_outcomes

DELIVERIES_PER_RUN = 1_000
BODY = json.dumps(
    {
        "id": "6f0d7c52-6f1e-4c0f-9f59-1c8f6c0f0f4e",
        "event": "sync_job_run:record",
        "payload": {
            "resource": "crm/contacts",
            "method": "list",
            "records": [{"id": "c-1", "name": "Ada Lovelace", "email": "ada@example.com", "city": "London"}],
        },
    }
).encode()
# Two a second: ten million are two months.
_APART_MS = 500
# Room for more that came later and are due all the same.
_BEGAN_AGO = 1.3
# What a delivery has from its number n, its time `at` and the state it is to have.
_VALUES = {
    # As `identify` makes them: a version 8 UUID that begins with the time in ms.
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
        LATERAL (SELECT %(began_ms)s::bigint + n::bigint * {_APART_MS} AS ms) AS moment
) AS made"""
_FILL_OUTCOMES = f"""
INSERT INTO {sink_outcomes.name} (delivery_id, sink, state, written, updated_at)
SELECT id, 'main', 'done', 1, settled_at FROM {deliveries.name} WHERE state = 'settled'"""
_FILL_RUNS = f"""
INSERT INTO {runs.name} (sync_job_run_id, status, first_seen_at)
SELECT md5('run ' || n)::uuid::text, 'completed', now()
FROM generate_series(0, (%(number)s::int - 1) / {DELIVERIES_PER_RUN}) AS n"""


def run_id(number: int) -> str:
    """Return the name of the run of this number, the oldest being 0."""
    return str(UUID(hashlib.md5(f"run {number}".encode()).hexdigest()))


def fill_inbox(url: str, number: int, *, is_pending: bool) -> None:
    """Create the tables and so many deliveries: all pending and due, or all settled, with their outcomes."""
    store = open_database(url)
    migrate(store)
    store.close()
    with connect_without_limits(url) as connection:
        add_deliveries(connection, number, "pending" if is_pending else "settled", inbox_size=number)
        connection.execute(_FILL_OUTCOMES)
        connection.execute(_FILL_RUNS, {"number": number})
        for table in (deliveries, sink_outcomes, runs):
            # Only when it is told to: every size is to be looked at in the same condition.
            connection.execute(f"ALTER TABLE {table.name} SET (autovacuum_enabled = off)")
    vacuum_tables(url)


def add_deliveries(
    connection: psycopg.Connection, number: int, state: str, *, inbox_size: int, first: int = 0
) -> None:
    """Add so many deliveries in this state to a store of a number, from the first of these on."""
    began = datetime.now(UTC) - timedelta(milliseconds=_APART_MS * _BEGAN_AGO * inbox_size, hours=1)
    parameters = {
        "first": first,
        "last": first + number - 1,
        "began_ms": int(began.timestamp() * 1000),
        "state": state,
        "body": zlib.compress(BODY, 1),
        "body_bytes": len(BODY),
    }
    connection.execute(_FILL, parameters)


def vacuum_tables(url: str) -> None:
    """Do what autovacuum does in time, and leave nothing over from before."""
    with connect_without_limits(url) as connection:
        for table in (deliveries, sink_outcomes, runs):
            connection.execute(f"VACUUM (ANALYZE, INDEX_CLEANUP ON) {table.name}")
        connection.execute("CHECKPOINT")


@contextmanager
def connect_without_limits(url: str) -> Iterator[psycopg.Connection]:
    """Connect without the limits that the service's own statements have; every statement commits."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        yield connection
