"""The tables of runs and syncs."""

from typing import Any

from sqlalchemy import BigInteger, Column, Index, SmallInteger, Table, Uuid, text

from app.store.schema.column_types import PREFIX, SafeText, UtcDateTime, metadata, number_column, text_column


def _summary_columns() -> list[Column[Any]]:
    """Return the columns of a run's summary: a `RunSummary`."""
    return [
        # A Verdict; "" until a worker summarizes the run.
        text_column("verdict"),
        # Truto's count; NULL if it is unknown.
        Column("fetched", BigInteger),
        number_column("arrived"),
        number_column("written"),
        number_column("dead"),
        number_column("missing"),
        number_column("record_errors"),
        # Records that a sink lacks. A gap of unknown number counts as one.
        number_column("gap_records"),
        # The gap reasons with their records, as JSON: [[code, records or null], …], the largest first.
        text_column("gap_reasons"),
        number_column("pending_deliveries"),
    ]


runs = Table(
    PREFIX + "runs",
    metadata,
    Column("sync_job_run_id", SafeText, primary_key=True),
    text_column("sync_job_id"),
    text_column("integrated_account_id"),
    text_column("environment_id"),
    text_column("webhook_id"),
    # Truto's status, or "refused"; "" until a lifecycle event arrives.
    text_column("status"),
    # The time of the event that `status` and `run` are from: an older event never overwrites them.
    Column("status_at", UtcDateTime),
    Column("status_rank", SmallInteger, nullable=False, server_default="-1"),
    Column("first_seen_at", UtcDateTime, nullable=False),
    # The sync job run as Truto last sent it, JSON.
    Column("run", SafeText),
    # When the first event reported a stop or a refusal. Later deliveries are late.
    Column("stopped_at", UtcDateTime),
    # The reason why a policy refused its start.
    text_column("refusal_reason"),
    # When it was reconciled: ended, with no pending delivery. A later delivery sets it to NULL again.
    Column("reconciled_at", UtcDateTime),
    # The reason to stop it, and when Truto accepted the request.
    text_column("stop_reason"),
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
    number_column("revision"),
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
    text_column("environment_id"),
    text_column("webhook_id"),
    # When the newest batch that a worker processed was received, to within 10 s.
    Column("newest_record_at", UtcDateTime),
    # The newest run that was not refused, with its status and its summary.
    text_column("last_run_id"),
    Column("last_run_at", UtcDateTime),
    text_column("status"),
    *_summary_columns(),
    # The newest runs, at most 20, and those of them with gaps.
    number_column("recent_runs"),
    number_column("incomplete_runs"),
    # The median time between the starts of recent runs; NULL if there are too few.
    Column("usual_interval_s", BigInteger),
    # The sync is late from then on, unless a run begins, or its open run gets a delivery; NULL for never.
    Column("expected_at", UtcDateTime),
    Column("summarized_at", UtcDateTime),
)

delete_checks = Table(
    PREFIX + "delete_checks",
    metadata,
    # The rows of one resource in one sink that a run did not see: marked as deleted, or held back.
    Column("id", Uuid, primary_key=True),
    Column("sync_job_run_id", SafeText, nullable=False),
    text_column("sync_job_id"),
    text_column("integrated_account_id"),
    Column("resource", SafeText, nullable=False),
    # A method of the run whose route tracks deletes.
    text_column("method"),
    Column("sink", SafeText, nullable=False),
    # The `table` of the route; "" for that of the resource.
    text_column("route_table"),
    # When the first delivery of the run was received.
    Column("began_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # A DeleteCheckState.
    Column("state", SafeText, nullable=False),
    # A HoldReason; of a check that is due, the reason why it waits, and the message of the sink.
    text_column("reason"),
    text_column("message"),
    # The next attempt; while a process carries it out, the end of its lease.
    Column("due_at", UtcDateTime, nullable=False),
    text_column("leased_by"),
    # The rows of the job that were live, and those of them that the run did not see, when it was carried out.
    Column("live_rows", BigInteger),
    Column("unseen_rows", BigInteger),
    # NULL until every unseen row is marked.
    Column("marked_rows", BigInteger),
    # When marking began: from then on, its share is not checked again.
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    # The operator who approved that more rows than the share are marked.
    text_column("approved_by"),
    Column("approved_at", UtcDateTime),
)
Index(
    PREFIX + "delete_checks_due",
    delete_checks.c.due_at,
    sqlite_where=text("state = 'due'"),
    postgresql_where=text("state = 'due'"),
)
Index(
    PREFIX + "delete_checks_held",
    delete_checks.c.created_at,
    sqlite_where=text("state = 'held_back'"),
    postgresql_where=text("state = 'held_back'"),
)
Index(PREFIX + "delete_checks_created", delete_checks.c.created_at, delete_checks.c.id)
Index(PREFIX + "delete_checks_of_run", delete_checks.c.sync_job_run_id)
Index(
    PREFIX + "delete_checks_of_sync",
    delete_checks.c.integrated_account_id,
    delete_checks.c.sync_job_id,
    delete_checks.c.began_at,
)
