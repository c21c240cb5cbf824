"""The tables of workers, sinks and counts."""

from sqlalchemy import BigInteger, Column, Integer, Table

from app.store.schema.column_types import PREFIX, SafeText, UtcDateTime, metadata, text_column

workers = Table(
    PREFIX + "workers",
    metadata,
    # A worker process with its heartbeat. The name is that in `leased_by`.
    Column("name", SafeText, primary_key=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    # The release, and digests of the routes and sinks that it started with, as JSON; one digest of these.
    text_column("config"),
    text_column("digest"),
)

sink_states = Table(
    PREFIX + "sink_states",
    metadata,
    # A sink (scope ""), or one table of a sink that rejects its records until a person corrects it.
    Column("sink", SafeText, primary_key=True),
    Column("scope", SafeText, primary_key=True, server_default=""),
    Column("paused_at", UtcDateTime),
    text_column("paused_by"),
    text_column("pause_reason"),
    # The breaker: open since, the time of the next trial, the failed trials, and the error of the last one.
    Column("open_since", UtcDateTime),
    Column("retry_at", UtcDateTime),
    Column("failures", Integer, nullable=False, server_default="0"),
    text_column("reason"),
    text_column("message"),
    # Exact to a few seconds.
    Column("last_write_at", UtcDateTime),
    Column("last_failure_at", UtcDateTime),
)

column_misfits = Table(
    PREFIX + "column_misfits",
    metadata,
    # The values of a resource that became NULL in one column of a sink, because they did not fit its type.
    Column("sink", SafeText, primary_key=True),
    Column("resource", SafeText, primary_key=True),
    Column("column_name", SafeText, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("first_at", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
)

response_counts = Table(
    PREFIX + "response_counts",
    metadata,
    # The responses of all web processes to POSTs in ten minutes, by status and, for some, by cause.
    Column("period_start", UtcDateTime, primary_key=True),
    Column("status", SafeText, primary_key=True),
    Column("cause", SafeText, primary_key=True, server_default=""),
    Column("number", BigInteger, nullable=False),
    # When the newest of them was counted.
    Column("last_at", UtcDateTime, nullable=False),
)

arrivals = Table(
    PREFIX + "arrivals",
    metadata,
    # The stored requests of all web processes in a period, by acknowledgement time. period_s: 60 or 900.
    Column("period_s", Integer, primary_key=True, autoincrement=False),
    Column("period_start", UtcDateTime, primary_key=True),
    # The largest time of the group.
    Column("max_ms", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
)

webhook_events = Table(
    PREFIX + "webhook_events",
    metadata,
    # A webhook with a verified event, and when its newest one was received.
    Column("webhook_id", SafeText, primary_key=True),
    Column("last_event_at", UtcDateTime, nullable=False),
)

work_totals = Table(
    PREFIX + "work_totals",
    metadata,
    # The work of all workers since the store exists. name: a WorkTotal; label: a state or a sink.
    Column("name", SafeText, primary_key=True),
    Column("label", SafeText, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

encryption_keys = Table(
    PREFIX + "encryption_keys",
    metadata,
    # The id of a key in ENCRYPTION_KEYS that stored data may be encrypted with.
    Column("key_id", SafeText, primary_key=True),
    Column("first_used_at", UtcDateTime, nullable=False),
)
