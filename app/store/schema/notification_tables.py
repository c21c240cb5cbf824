"""The tables of notifications."""

from sqlalchemy import Column, Index, SmallInteger, Table, Uuid, text

from app.store.schema.column_types import PREFIX, SafeText, UtcDateTime, metadata, text_column

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
    text_column("message"),
    # For a subscriber that receives the end of the condition too: "awaited", then "due"; else "".
    text_column("ending"),
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
