"""The table of loads."""

from sqlalchemy import BigInteger, Column, Integer, SmallInteger, Table, Uuid

from app.store.schema.column_types import PREFIX, SafeText, UtcDateTime, metadata, text_column

loads = Table(
    PREFIX + "loads",
    metadata,
    # An open load of a sink: its deliveries are the sink outcomes with its scope. Deleted when it ends.
    Column("id", Uuid, primary_key=True),
    Column("sink", SafeText, nullable=False),
    Column("planned_at", UtcDateTime, nullable=False),
    Column("deliveries", Integer, nullable=False),
    # Of the bodies, uncompressed.
    Column("body_bytes", BigInteger, nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    # The worker that leased it. If the next worker finds this set, the first one died.
    text_column("leased_by"),
    Column("lost_attempts", SmallInteger, nullable=False, server_default="0"),
    # When it is enqueued, and when the lease of its worker ends.
    Column("due_at", UtcDateTime, nullable=False),
    Column("leased_until", UtcDateTime),
    # The names that an attempt was about to make visible, as the sink wrote them; "" before.
    text_column("prepared"),
)
