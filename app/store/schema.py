"""The tables of the store.

All names begin with `rapidbridge_`, because the default SQL sink writes its tables into the same database.
A test compares these tables with the result of `migrations/`.
"""

import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.types import TypeDecorator

PREFIX = "rapidbridge_"
metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC: timestamptz in PostgreSQL, sortable text in SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def replace_unstorable(text: str) -> str:
    """Return a text without characters that PostgreSQL cannot store."""
    return _UNSTORABLE.sub("\ufffd", text)


class SafeText(TypeDecorator[str]):
    """Text in which NUL and lone surrogates, which PostgreSQL cannot store, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else replace_unstorable(value)


def _text_column(name: str) -> Column[str]:
    return Column(name, SafeText, nullable=False, server_default="")


def _number_column(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


def _summary_columns() -> list[Column[Any]]:
    """Return the columns of a run's summary: a `RunSummary`."""
    return [
        # A Verdict; "" until a worker summarizes the run.
        _text_column("verdict"),
        # Truto's count; NULL if it is unknown.
        Column("fetched", BigInteger),
        _number_column("arrived"),
        _number_column("written"),
        _number_column("dead"),
        _number_column("missing"),
        _number_column("record_errors"),
        # Records that a sink lacks. A gap of unknown number counts as one.
        _number_column("gap_records"),
        # The gap reasons with their records, as JSON: [[code, records or null], …], the largest first.
        _text_column("gap_reasons"),
        _number_column("pending_deliveries"),
    ]


deliveries = Table(
    PREFIX + "deliveries",
    metadata,
    # One POST. The id is made of the event's id and the body, so the same body is the same row.
    Column("id", Uuid, primary_key=True),
    Column("received_at", UtcDateTime, nullable=False),
    # From the envelope; "" if it lacks them.
    _text_column("event_id"),
    _text_column("event"),
    _text_column("webhook_id"),
    _text_column("environment_id"),
    _text_column("sync_job_id"),
    _text_column("sync_job_run_id"),
    _text_column("integrated_account_id"),
    _text_column("resource"),
    _text_column("method"),
    Column("created_at", UtcDateTime),
    # An AttributionSource if a worker found the account or the run elsewhere; "" if they are the event's own.
    _text_column("account_source"),
    _text_column("run_source"),
    # A DeliveryState. quarantined and refused are set on arrival, discarded by an operator, all others by
    # workers.
    Column("state", SafeText, nullable=False),
    _text_column("reason"),
    Column("records", Integer, nullable=False, server_default="0"),
    # NULs and lone surrogates in its records that became U+FFFD.
    Column("replaced_characters", Integer, nullable=False, server_default="0"),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    # The worker that leased it. If the next worker finds this set, the first one died.
    _text_column("leased_by"),
    Column("lost_attempts", SmallInteger, nullable=False, server_default="0"),
    Column("duplicates", Integer, nullable=False, server_default="0"),
    # When the sweeper enqueues it, and when the lease of its worker ends.
    Column("due_at", UtcDateTime, nullable=False),
    # A DeliveryPriority; only of a pending delivery.
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("leased_until", UtcDateTime),
    # NULL while it is pending.
    Column("settled_at", UtcDateTime),
    Column("body_bytes", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # When the body was pruned; `body` is then empty.
    Column("pruned_at", UtcDateTime),
    # The newest replay that requeued it.
    Column("replay_id", Uuid),
    # The operator's reason for discarding it; "" unless discarded.
    _text_column("discard_reason"),
    # The span that accepted it, as a W3C traceparent; "" without tracing.
    _text_column("traceparent"),
)
# These two conditions are equivalent, but PostgreSQL uses a partial index only for a query that repeats its
# condition. With one condition for both, it could pick the wrong index and read all of it, because its
# statistics, until they are refreshed, show no pending row.
Index(
    PREFIX + "deliveries_due_by_priority",
    deliveries.c.priority,
    deliveries.c.due_at,
    sqlite_where=text("state = 'pending'"),
    postgresql_where=text("state = 'pending'"),
)
Index(
    PREFIX + "deliveries_unsettled",
    deliveries.c.received_at,
    sqlite_where=text("settled_at IS NULL"),
    postgresql_where=text("settled_at IS NULL"),
)
# For reading all deliveries in the order of their arrival.
Index(PREFIX + "deliveries_received", deliveries.c.received_at, deliveries.c.id)
# For the failed deliveries: few among millions.
Index(
    PREFIX + "deliveries_failed",
    deliveries.c.received_at,
    sqlite_where=text("state IN ('dead', 'quarantined', 'unrouted', 'late')"),
    postgresql_where=text("state IN ('dead', 'quarantined', 'unrouted', 'late')"),
)
# For groups of failed deliveries with the same cause, found without reading every failed delivery.
Index(
    PREFIX + "deliveries_failed_by_cause",
    deliveries.c.state,
    deliveries.c.reason,
    deliveries.c.resource,
    deliveries.c.received_at,
    deliveries.c.id,
    sqlite_where=text("state IN ('dead', 'quarantined', 'unrouted', 'late')"),
    postgresql_where=text("state IN ('dead', 'quarantined', 'unrouted', 'late')"),
)
Index(
    PREFIX + "deliveries_failed_of_account",
    deliveries.c.integrated_account_id,
    deliveries.c.received_at,
    sqlite_where=text("state IN ('dead', 'quarantined', 'unrouted', 'late')"),
    postgresql_where=text("state IN ('dead', 'quarantined', 'unrouted', 'late')"),
)
# For the progress of a replay.
Index(
    PREFIX + "deliveries_of_replay",
    deliveries.c.replay_id,
    deliveries.c.state,
    sqlite_where=text("replay_id IS NOT NULL"),
    postgresql_where=text("replay_id IS NOT NULL"),
)
# For pruning: without it, every round would read all rows that were pruned before.
Index(
    PREFIX + "deliveries_prunable",
    deliveries.c.received_at,
    deliveries.c.id,
    sqlite_where=text("pruned_at IS NULL AND state IN ('settled', 'refused', 'discarded')"),
    postgresql_where=text("pruned_at IS NULL AND state IN ('settled', 'refused', 'discarded')"),
)
# The newest delivery of every open run is read every few seconds.
Index(PREFIX + "deliveries_of_run", deliveries.c.sync_job_run_id, deliveries.c.received_at)
# For the deliveries of one customer, who may have few among millions.
Index(PREFIX + "deliveries_of_account", deliveries.c.integrated_account_id, deliveries.c.received_at)

sink_outcomes = Table(
    PREFIX + "sink_outcomes",
    metadata,
    # The result of one delivery in one sink. The state is a SinkOutcomeState.
    Column("delivery_id", Uuid, primary_key=True),
    Column("sink", SafeText, primary_key=True),
    Column("state", SafeText, nullable=False),
    Column("written", Integer, nullable=False, server_default="0"),
    Column("dead", Integer, nullable=False, server_default="0"),
    _text_column("reason"),
    _text_column("message"),
    Column("updated_at", UtcDateTime, nullable=False),
    # Where a worker continues a large delivery, as JSON; "" for all others.
    _text_column("progress"),
    # While the delivery is held: the scope of the state in `sink_states` that holds it, and its received_at.
    Column("held_scope", SafeText),
    Column("held_received_at", UtcDateTime),
)
# Held deliveries in the order of their arrival, and the failing ones that are retried.
Index(
    PREFIX + "sink_outcomes_waiting",
    sink_outcomes.c.sink,
    sink_outcomes.c.held_scope,
    sink_outcomes.c.held_received_at,
    sqlite_where=text("state = 'failing'"),
    postgresql_where=text("state = 'failing'"),
)

delivery_attempts = Table(
    PREFIX + "delivery_attempts",
    metadata,
    # An attempt that did not settle its delivery, or that followed such an attempt. The number begins again
    # with a replay.
    Column("delivery_id", Uuid, primary_key=True),
    Column("finished_at", UtcDateTime, primary_key=True),
    Column("attempt", SmallInteger, primary_key=True, autoincrement=False),
    # The name in `leased_by`.
    _text_column("worker"),
    # NULL if the worker died; `finished_at` is then the time of the next lease.
    Column("started_at", UtcDateTime),
    # Of the delivery after the attempt.
    Column("state", SafeText, nullable=False),
    _text_column("reason"),
    _text_column("message"),
    # When the next attempt was due; NULL if none was.
    Column("due_at", UtcDateTime),
)

dead_records = Table(
    PREFIX + "dead_records",
    metadata,
    # A record that is unreadable (sink "") or that a sink rejected; `raw` is its original JSON.
    Column("delivery_id", Uuid, primary_key=True),
    Column("sink", SafeText, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("reason", SafeText, nullable=False),
    _text_column("message"),
    Column("raw", SafeText, nullable=False),
    Column("died_at", UtcDateTime, nullable=False),
    # The operator's reason for discarding it; "" unless discarded.
    _text_column("discard_reason"),
    # Of its delivery, to group by it without reading the deliveries; "" if an earlier release wrote it.
    _text_column("resource"),
)
Index(
    PREFIX + "dead_records_by_cause",
    dead_records.c.reason,
    dead_records.c.sink,
    dead_records.c.resource,
    dead_records.c.died_at,
    dead_records.c.delivery_id,
    sqlite_where=text("discard_reason = ''"),
    postgresql_where=text("discard_reason = ''"),
)

record_errors = Table(
    PREFIX + "record_errors",
    metadata,
    # One error that Truto reports about fetching from the customer's account.
    Column("delivery_id", Uuid, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("sync_job_run_id", SafeText, nullable=False, index=True),
    _text_column("resource"),
    _text_column("method"),
    Column("remote_status", Integer),
    _text_column("message"),
    Column("raw", SafeText, nullable=False),
)

replays = Table(
    PREFIX + "replays",
    metadata,
    Column("id", Uuid, primary_key=True),
    # The request as JSON: the same request resumes an unfinished replay.
    Column("request", SafeText, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    # The last requeued delivery.
    Column("cursor_at", UtcDateTime),
    Column("cursor_id", Uuid),
    Column("requeued_deliveries", BigInteger, nullable=False, server_default="0"),
    # The digest of the routes and sinks that the command read, as in `workers`, and the time of that.
    _text_column("config"),
    Column("config_at", UtcDateTime),
)

operations = Table(
    PREFIX + "operations",
    metadata,
    # Long work in the background. A replay has the same id in `replays`, with its cursor.
    Column("id", Uuid, primary_key=True),
    # An OperationKind.
    Column("kind", SafeText, nullable=False),
    # The resolved request as JSON, and a digest of the request as it was made.
    Column("request", SafeText, nullable=False),
    Column("request_digest", SafeText, nullable=False),
    # The dashboard, the command line or MCP; the address or host of the operator.
    _text_column("requested_by"),
    _text_column("requested_from"),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    # An OperationState.
    Column("state", SafeText, nullable=False),
    # The number of deliveries or records to change; NULL while unknown.
    Column("total", BigInteger),
    Column("done", BigInteger, nullable=False, server_default="0"),
    # The last delivery that a discard read.
    Column("cursor_at", UtcDateTime),
    Column("cursor_id", Uuid),
    # The process that carries it out, and the end of its lease.
    _text_column("leased_by"),
    Column("leased_until", UtcDateTime),
    _text_column("error"),
)
# The same request is carried out once at a time.
Index(
    PREFIX + "operations_unfinished",
    operations.c.request_digest,
    unique=True,
    sqlite_where=text("finished_at IS NULL"),
    postgresql_where=text("finished_at IS NULL"),
)
Index(PREFIX + "operations_requested", operations.c.requested_at, operations.c.id)

workers = Table(
    PREFIX + "workers",
    metadata,
    # A worker process with its heartbeat. The name is that in `leased_by`.
    Column("name", SafeText, primary_key=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    # The release, and digests of the routes and sinks that it started with, as JSON; one digest of these.
    _text_column("config"),
    _text_column("digest"),
)

sink_states = Table(
    PREFIX + "sink_states",
    metadata,
    # A sink (scope ""), or one table of a sink that rejects its records until a person corrects it.
    Column("sink", SafeText, primary_key=True),
    Column("scope", SafeText, primary_key=True, server_default=""),
    Column("paused_at", UtcDateTime),
    _text_column("paused_by"),
    _text_column("pause_reason"),
    # The breaker: open since, the time of the next trial, the failed trials, and the error of the last one.
    Column("open_since", UtcDateTime),
    Column("retry_at", UtcDateTime),
    Column("failures", Integer, nullable=False, server_default="0"),
    _text_column("reason"),
    _text_column("message"),
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

runs = Table(
    PREFIX + "runs",
    metadata,
    Column("sync_job_run_id", SafeText, primary_key=True),
    _text_column("sync_job_id"),
    _text_column("integrated_account_id"),
    _text_column("environment_id"),
    _text_column("webhook_id"),
    # Truto's status, or "refused"; "" until a lifecycle event arrives.
    _text_column("status"),
    # The time of the event that `status` and `run` are from: an older event never overwrites them.
    Column("status_at", UtcDateTime),
    Column("status_rank", SmallInteger, nullable=False, server_default="-1"),
    Column("first_seen_at", UtcDateTime, nullable=False),
    # The sync job run as Truto last sent it, JSON.
    Column("run", SafeText),
    # When the first event reported a stop or a refusal. Later deliveries are late.
    Column("stopped_at", UtcDateTime),
    # The reason why a policy refused its start.
    _text_column("refusal_reason"),
    # When it was reconciled: ended, with no pending delivery. A later delivery sets it to NULL again.
    Column("reconciled_at", UtcDateTime),
    # The reason to stop it, and when Truto accepted the request.
    _text_column("stop_reason"),
    Column("stop_sent_at", UtcDateTime),
    # The sums of Truto's log by resource, as JSON.
    Column("log_totals", SafeText),
    # The sums of its last reconciliation: a cache, always written as a whole.
    *_summary_columns(),
    # The time of its newest delivery at that reconciliation.
    Column("last_delivery_at", UtcDateTime),
    # The time of that reconciliation; NULL if the run changed since.
    Column("summarized_at", UtcDateTime),
    # Incremented by every change: a summary of an older revision is not saved.
    _number_column("revision"),
    # When the data of its account was erased: the run then belongs to no sync.
    Column("erased_at", UtcDateTime),
)
Index(
    PREFIX + "runs_unreconciled",
    runs.c.first_seen_at,
    sqlite_where=text("reconciled_at IS NULL"),
    postgresql_where=text("reconciled_at IS NULL"),
)
Index(PREFIX + "runs_first_seen", runs.c.first_seen_at)
Index(PREFIX + "runs_of_account", runs.c.integrated_account_id, runs.c.first_seen_at, runs.c.sync_job_run_id)
Index(
    PREFIX + "runs_of_sync",
    runs.c.integrated_account_id,
    runs.c.sync_job_id,
    runs.c.first_seen_at,
    runs.c.sync_job_run_id,
)
Index(
    PREFIX + "runs_with_gaps",
    runs.c.first_seen_at,
    runs.c.sync_job_run_id,
    sqlite_where=text("gap_records > 0"),
    postgresql_where=text("gap_records > 0"),
)
Index(
    PREFIX + "runs_unsummarized",
    runs.c.first_seen_at,
    sqlite_where=text("summarized_at IS NULL"),
    postgresql_where=text("summarized_at IS NULL"),
)
Index(
    PREFIX + "runs_with_pending",
    runs.c.summarized_at,
    sqlite_where=text("pending_deliveries > 0"),
    postgresql_where=text("pending_deliveries > 0"),
)

syncs = Table(
    PREFIX + "syncs",
    metadata,
    # The sync of one integrated account by one sync job: its last run, and whether the next one is late.
    # All of it but `newest_record_at` is derived from `runs`.
    Column("integrated_account_id", SafeText, primary_key=True),
    # "" if the job is unknown.
    Column("sync_job_id", SafeText, primary_key=True),
    _text_column("environment_id"),
    _text_column("webhook_id"),
    # When the newest batch that a worker processed was received, to within 10 s.
    Column("newest_record_at", UtcDateTime),
    # The newest run that was not refused, with its status and its summary.
    _text_column("last_run_id"),
    Column("last_run_at", UtcDateTime),
    _text_column("status"),
    *_summary_columns(),
    # The newest runs, at most 20, and those of them with gaps.
    _number_column("recent_runs"),
    _number_column("incomplete_runs"),
    # The median time between the starts of recent runs; NULL if there are too few.
    Column("usual_interval_s", BigInteger),
    # The sync is late from then on, unless a run begins, or its open run gets a delivery; NULL for never.
    Column("expected_at", UtcDateTime),
    Column("summarized_at", UtcDateTime),
)

notifications = Table(
    PREFIX + "notifications",
    metadata,
    # The id is made of kind, subject and cause, so that a cause is notified once.
    Column("id", Uuid, primary_key=True),
    Column("kind", SafeText, nullable=False),
    # The id of the run, sink or webhook, or a resource.
    Column("subject", SafeText, nullable=False),
    Column("cause", SafeText, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
    # The JSON to send.
    Column("payload", SafeText, nullable=False),
    # When the condition ended; for events, when they occurred.
    Column("closed_at", UtcDateTime),
    # When a delivery was created for every subscriber that accepts the kind.
    Column("fanned_out_at", UtcDateTime),
)
# An ongoing condition has one open notification until it ends.
Index(
    PREFIX + "notifications_open",
    notifications.c.kind,
    notifications.c.subject,
    unique=True,
    sqlite_where=text("closed_at IS NULL"),
    postgresql_where=text("closed_at IS NULL"),
)
Index(
    PREFIX + "notifications_not_fanned_out",
    notifications.c.occurred_at,
    sqlite_where=text("fanned_out_at IS NULL"),
    postgresql_where=text("fanned_out_at IS NULL"),
)
Index(PREFIX + "notifications_of_kind", notifications.c.kind, notifications.c.occurred_at)
Index(PREFIX + "notifications_of_subject", notifications.c.subject, notifications.c.occurred_at)

notification_deliveries = Table(
    PREFIX + "notification_deliveries",
    metadata,
    # One notification for one subscriber: pending, sent or dead.
    Column("notification_id", Uuid, primary_key=True),
    Column("subscriber", SafeText, primary_key=True),
    Column("state", SafeText, nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("due_at", UtcDateTime, nullable=False),
    # The error of the last attempt.
    _text_column("message"),
    # For a subscriber that receives the end of the condition too: "awaited", then "due"; else "".
    _text_column("ending"),
)
Index(
    PREFIX + "notification_deliveries_due",
    notification_deliveries.c.due_at,
    sqlite_where=text("state = 'pending'"),
    postgresql_where=text("state = 'pending'"),
)
Index(
    PREFIX + "notification_deliveries_dead",
    notification_deliveries.c.notification_id,
    sqlite_where=text("state = 'dead'"),
    postgresql_where=text("state = 'dead'"),
)

audit_log = Table(
    PREFIX + "audit_log",
    metadata,
    # One action of a person or a program.
    Column("id", SafeText, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", SafeText, nullable=False),
    # Of the client, as the nearest router saw it.
    _text_column("address"),
    Column("action", SafeText, nullable=False),
    # An id, a name, or a filter.
    Column("subject", SafeText, nullable=False),
    # Of affected deliveries or other items.
    Column("number", BigInteger, nullable=False, server_default="1"),
)
Index(PREFIX + "audit_log_at", audit_log.c.at, audit_log.c.id)
