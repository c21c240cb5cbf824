"""What has come and gone in a filled store by the time autovacuum looks after it."""

import psycopg

from app.store.schema import deliveries
from benchmarks.seeded_inbox import DELIVERIES_PER_RUN, add_deliveries, connect_without_limits, vacuum_tables

# How many rows may change before autovacuum comes, by the table's own settings or the server's.
_TOLERATED = f"""
SELECT (COALESCE(own.threshold, current_setting(%(option)s || '_threshold'))::float
    + COALESCE(own.factor, current_setting(%(option)s || '_scale_factor'))::float * reltuples)::bigint
FROM pg_class, LATERAL (
    SELECT max(option_value) FILTER (WHERE option_name = %(option)s || '_threshold') AS threshold,
        max(option_value) FILTER (WHERE option_name = %(option)s || '_scale_factor') AS factor
    FROM pg_options_to_table(reloptions)
) AS own WHERE oid = '{deliveries.name}'::regclass"""
_CLAIM = f"""
UPDATE {deliveries.name} SET due_at = due_at + interval '40 s', leased_until = due_at + interval '40 s',
    attempts = 1, leased_by = 'worker' WHERE state = 'pending'"""
_SETTLE = f"""
UPDATE {deliveries.name} SET state = 'settled', due_at = received_at, leased_until = NULL, leased_by = '',
    records = 1, settled_at = received_at + interval '1 s' WHERE state = 'pending'"""


def add_backlog(url: str, number: int) -> int:
    """Have a store filled to this number take in as much as it may until statistics would be made anew.

    Returns how many deliveries these are, a run at least: all are pending and due.
    """
    with connect_without_limits(url) as connection:
        more = max(DELIVERIES_PER_RUN, _tolerated(connection, "autovacuum_analyze"))
        add_deliveries(connection, more, "pending", inbox_size=number, first=number)
        connection.execute("CHECKPOINT")
    return more


def age_inbox(url: str, number: int) -> int:
    """Have a store of so many finish with what is pending, be vacuumed, and go on until it is to be again.

    Returns how many more deliveries have come and been settled since: each leaves two dead rows.
    """
    with connect_without_limits(url) as connection:
        pending = connection.execute(_CLAIM).rowcount
        connection.execute(_SETTLE)
        vacuum_tables(url)
        more = _tolerated(connection, "autovacuum_vacuum") // 2
        add_deliveries(connection, more, "pending", inbox_size=number, first=number + pending)
        connection.execute(_CLAIM)
        connection.execute(_SETTLE)
        connection.execute(f"ANALYZE {deliveries.name}")
        connection.execute("CHECKPOINT")
    return more


def _tolerated(connection: psycopg.Connection, option: str) -> int:
    found = connection.execute(_TOLERATED, {"option": option}).fetchone()
    assert found is not None
    number: int = found[0]
    return number
