"""The tables of replays, operations and the audit log."""

from sqlalchemy import BigInteger, Column, Index, Table, Uuid, text

from app.store.schema.column_types import PREFIX, SafeText, UtcDateTime, metadata, text_column

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
    text_column("config"),
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
    text_column("requested_by"),
    text_column("requested_from"),
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
    text_column("leased_by"),
    Column("leased_until", UtcDateTime),
    text_column("error"),
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

audit_log = Table(
    PREFIX + "audit_log",
    metadata,
    # One action of a person or a program.
    Column("id", SafeText, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", SafeText, nullable=False),
    # Of the client, as the nearest router saw it.
    text_column("address"),
    Column("action", SafeText, nullable=False),
    # An id, a name, or a filter.
    Column("subject", SafeText, nullable=False),
    # Of affected deliveries or other items.
    Column("number", BigInteger, nullable=False, server_default="1"),
)
Index(PREFIX + "audit_log_at", audit_log.c.at, audit_log.c.id)
