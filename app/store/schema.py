"""The tables of the store.

All names begin with `rapidbridge_`, because the default SQL sink writes its tables into the same database.
`migrations/` holds how a database gets here; a test compares the two.
"""

import re
from datetime import UTC, datetime

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
    """Return a text that every database can hold."""
    return _UNSTORABLE.sub("\ufffd", text)


class SafeText(TypeDecorator[str]):
    """Text without what PostgreSQL cannot hold: NUL and lone surrogates become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: Dialect) -> str | None:
        return None if value is None else replace_unstorable(value)


def _text_column(name: str) -> Column[str]:
    return Column(name, SafeText, nullable=False, server_default="")


deliveries = Table(
    PREFIX + "deliveries",
    metadata,
    # One POST as it came. The id is made of the event's id and the body, so the same body is the same row.
    Column("id", Uuid, primary_key=True),
    Column("received_at", UtcDateTime, nullable=False),
    # From the envelope; "" where it names none.
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
    # pending, then settled, unrouted or dead; quarantined and refused from the start; discarded once an
    # operator gave it up.
    Column("state", SafeText, nullable=False),
    _text_column("reason"),
    Column("records", Integer, nullable=False, server_default="0"),
    # NULs and lone surrogates that became U+FFFD in them, since no database holds these.
    Column("replaced_characters", Integer, nullable=False, server_default="0"),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    # The worker that is at it. Another that takes it up and finds this set knows that the first is gone.
    _text_column("leased_by"),
    Column("lost_attempts", SmallInteger, nullable=False, server_default="0"),
    Column("duplicates", Integer, nullable=False, server_default="0"),
    # When the sweeper is to wake a worker for it, and until when a worker has it to itself.
    Column("due_at", UtcDateTime, nullable=False),
    Column("leased_until", UtcDateTime),
    # NULL as long as it is pending.
    Column("settled_at", UtcDateTime),
    Column("body_bytes", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    # Once that was removed: empty then.
    Column("pruned_at", UtcDateTime),
    # The newest replay that took it up.
    Column("replay_id", Uuid),
    # Why an operator gave it up.
    _text_column("discard_reason"),
)
# Their conditions mean the same and differ all the same: each is for statements that say it in its words. To
# PostgreSQL, what is pending is no row at all until its statistics know better, and then either index is as
# good as any, to be read from end to end.
Index(
    PREFIX + "deliveries_due",
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
# For whoever goes through all of them, in the order in which they came.
Index(PREFIX + "deliveries_received", deliveries.c.received_at, deliveries.c.id)
# For whoever looks after what did not reach its sinks: few among millions.
Index(
    PREFIX + "deliveries_failed",
    deliveries.c.received_at,
    sqlite_where=text("state IN ('dead', 'quarantined', 'unrouted', 'late')"),
    postgresql_where=text("state IN ('dead', 'quarantined', 'unrouted', 'late')"),
)
# For whoever looks for what is old enough to be pruned: without it, past all that was pruned before.
Index(
    PREFIX + "deliveries_prunable",
    deliveries.c.received_at,
    deliveries.c.id,
    sqlite_where=text("pruned_at IS NULL AND state IN ('settled', 'refused', 'discarded')"),
    postgresql_where=text("pruned_at IS NULL AND state IN ('settled', 'refused', 'discarded')"),
)
# When something last came of a run is asked every few seconds, of every run that is open.
Index(PREFIX + "deliveries_of_run", deliveries.c.sync_job_run_id, deliveries.c.received_at)

sink_outcomes = Table(
    PREFIX + "sink_outcomes",
    metadata,
    # What one sink made of one delivery: done, failing (will be tried again) or dead.
    Column("delivery_id", Uuid, primary_key=True),
    Column("sink", SafeText, primary_key=True),
    Column("state", SafeText, nullable=False),
    Column("written", Integer, nullable=False, server_default="0"),
    Column("dead", Integer, nullable=False, server_default="0"),
    _text_column("reason"),
    _text_column("message"),
    Column("updated_at", UtcDateTime, nullable=False),
)
Index(
    PREFIX + "sink_outcomes_failing",
    sink_outcomes.c.sink,
    sqlite_where=text("state = 'failing'"),
    postgresql_where=text("state = 'failing'"),
)

dead_records = Table(
    PREFIX + "dead_records",
    metadata,
    # A record that could not be read (sink "") or that a sink refused; `raw` is its JSON as it came.
    Column("delivery_id", Uuid, primary_key=True),
    Column("sink", SafeText, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("reason", SafeText, nullable=False),
    _text_column("message"),
    Column("raw", SafeText, nullable=False),
    Column("died_at", UtcDateTime, nullable=False),
    # Why an operator gave it up.
    _text_column("discard_reason"),
)

record_errors = Table(
    PREFIX + "record_errors",
    metadata,
    # One error that Truto reports about fetching from the customer's SaaS account.
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
    # What was asked for, JSON: the same again goes on where this one was broken off.
    Column("request", SafeText, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    # The last delivery that was taken up.
    Column("cursor_at", UtcDateTime),
    Column("cursor_id", Uuid),
    Column("requeued_deliveries", BigInteger, nullable=False, server_default="0"),
)

runs = Table(
    PREFIX + "runs",
    metadata,
    Column("sync_job_run_id", SafeText, primary_key=True),
    _text_column("sync_job_id"),
    _text_column("integrated_account_id"),
    _text_column("environment_id"),
    _text_column("webhook_id"),
    # As Truto spells it, or refused; "" while only batches were seen.
    _text_column("status"),
    # The event that `status` and `run` come from: an older one never overwrites it.
    Column("status_at", UtcDateTime),
    Column("status_rank", SmallInteger, nullable=False, server_default="-1"),
    Column("first_seen_at", UtcDateTime, nullable=False),
    # The sync job run as Truto last sent it, JSON.
    Column("run", SafeText),
    # When we first heard that nothing more is to come, because it was stopped or refused: what comes later is
    # late.
    Column("stopped_at", UtcDateTime),
    # Why it was refused when it started.
    _text_column("refusal_reason"),
    # When it was found to have ended with nothing of it pending; NULL again as soon as more of it comes.
    Column("reconciled_at", UtcDateTime),
    # Why we want it stopped, and when Truto took that.
    _text_column("stop_reason"),
    Column("stop_sent_at", UtcDateTime),
    # What Truto's log says of its pages, by resource, JSON.
    Column("log_totals", SafeText),
)
Index(
    PREFIX + "runs_unreconciled",
    runs.c.first_seen_at,
    sqlite_where=text("reconciled_at IS NULL"),
    postgresql_where=text("reconciled_at IS NULL"),
)
Index(PREFIX + "runs_first_seen", runs.c.first_seen_at)

notifications = Table(
    PREFIX + "notifications",
    metadata,
    # Something that somebody may want to be told. The id is made of kind, subject and cause: once per cause.
    Column("id", Uuid, primary_key=True),
    Column("kind", SafeText, nullable=False),
    # The run, sink or webhook that it is about.
    Column("subject", SafeText, nullable=False),
    Column("cause", SafeText, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False),
    # JSON, ready to be sent.
    Column("payload", SafeText, nullable=False),
    # When what it tells of was over; what merely happened is over at once.
    Column("closed_at", UtcDateTime),
    # When it was handed to every endpoint that wants it.
    Column("fanned_out_at", UtcDateTime),
)
# A sink that fails goes on failing: one notice for as long as it does.
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
Index(PREFIX + "notifications_of_subject", notifications.c.subject, notifications.c.occurred_at)

notification_deliveries = Table(
    PREFIX + "notification_deliveries",
    metadata,
    # One notice on its way to one endpoint: pending, sent or dead.
    Column("notification_id", Uuid, primary_key=True),
    Column("subscriber", SafeText, primary_key=True),
    Column("state", SafeText, nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("due_at", UtcDateTime, nullable=False),
    # What became of the last attempt.
    _text_column("message"),
)
Index(
    PREFIX + "notification_deliveries_due",
    notification_deliveries.c.due_at,
    sqlite_where=text("state = 'pending'"),
    postgresql_where=text("state = 'pending'"),
)
