"""The tables of deliveries, their attempts and results."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, Uuid, text

from app.store.schema.column_types import PREFIX, SafeText, UtcDateTime, metadata, text_column

deliveries = Table(
    PREFIX + "deliveries",
    metadata,
    # One POST. The id is made of the event's id and the body, so the same body is the same row.
    Column("id", Uuid, primary_key=True),
    Column("received_at", UtcDateTime, nullable=False),
    # From the envelope; "" if it lacks them.
    text_column("event_id"),
    text_column("event"),
    text_column("webhook_id"),
    text_column("environment_id"),
    text_column("sync_job_id"),
    text_column("sync_job_run_id"),
    text_column("integrated_account_id"),
    text_column("resource"),
    text_column("method"),
    Column("created_at", UtcDateTime),
    # An AttributionSource if a worker found the account or the run elsewhere; "" if they are the event's own.
    text_column("account_source"),
    text_column("run_source"),
    # A DeliveryState. quarantined and refused are set on arrival, discarded by an operator, all others by
    # workers.
    Column("state", SafeText, nullable=False),
    text_column("reason"),
    Column("records", Integer, nullable=False, server_default="0"),
    # NULs and lone surrogates in its records that became U+FFFD.
    Column("replaced_characters", Integer, nullable=False, server_default="0"),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    # The worker that leased it. If the next worker finds this set, the first one died.
    text_column("leased_by"),
    Column("lost_attempts", SmallInteger, nullable=False, server_default="0"),
    Column("duplicates", Integer, nullable=False, server_default="0"),
    # When the feeder enqueues it, and when the lease of its worker ends.
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
    text_column("discard_reason"),
    # The span that accepted it, as a W3C traceparent; "" without tracing.
    text_column("traceparent"),
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
# For the turns of the accounts, found without reading the backlog of each.
Index(
    PREFIX + "deliveries_due_by_account",
    deliveries.c.priority,
    deliveries.c.integrated_account_id,
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
    text_column("reason"),
    text_column("message"),
    Column("updated_at", UtcDateTime, nullable=False),
    # Where a worker continues a large delivery, as JSON; "" for all others.
    text_column("progress"),
    # While the delivery is held: the scope of the state in `sink_states` that holds it, and its received_at.
    Column("held_scope", SafeText),
    Column("held_received_at", UtcDateTime),
    # Records that the filter of the route leaves out.
    Column("filtered", Integer, nullable=False, server_default="0"),
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
    text_column("worker"),
    # NULL if the worker died; `finished_at` is then the time of the next lease.
    Column("started_at", UtcDateTime),
    # Of the delivery after the attempt.
    Column("state", SafeText, nullable=False),
    text_column("reason"),
    text_column("message"),
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
    text_column("message"),
    Column("raw", SafeText, nullable=False),
    Column("died_at", UtcDateTime, nullable=False),
    # The operator's reason for discarding it; "" unless discarded.
    text_column("discard_reason"),
    # Of its delivery, to group by it without reading the deliveries; "" if an earlier release wrote it.
    text_column("resource"),
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
    text_column("resource"),
    text_column("method"),
    Column("remote_status", Integer),
    text_column("message"),
    Column("raw", SafeText, nullable=False),
)
