"""What somebody may want to be told: each cause once, and what lasts for as long as it does."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, select, update

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.schema import notifications, replace_unstorable


@dataclass(frozen=True, slots=True)
class Notification:
    """Something that happened, or began to last.

    kind: such as "run.settled". subject: the run, sink or webhook it is about. cause: tells it from the next
    of its kind and subject. told: what is sent of it, nothing but what JSON holds.
    """

    kind: str
    subject: str
    cause: str
    occurred_at: datetime
    payload: Mapping[str, Any]

    @property
    def id(self) -> UUID:
        """Made of kind, subject and cause alone: whoever finds the same again makes the same notice."""
        # As JSON: joined by anything else, two could be made to look alike.
        name = json.dumps([replace_unstorable(part) for part in (self.kind, self.subject, self.cause)])
        return UUID(bytes=hashlib.sha256(name.encode()).digest()[:16])


class Notifications:
    """The notices. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, notification: Notification) -> bool:
        """Keep a notice of what happened; False where it is there already."""
        return self._insert(notification, closed_at=notification.occurred_at)

    def open(self, notification: Notification) -> bool:
        """Keep a notice of what lasts; False where it is there already, or another like it lasts."""
        return self._insert(notification, closed_at=None)

    def close(self, kind: str, subject: str, *, now: datetime) -> bool:
        """Note that what lasted is over; False where nothing did."""
        statement = (
            update(notifications)
            .where(
                notifications.c.kind == kind,
                notifications.c.subject == subject,
                notifications.c.closed_at.is_(None),
            )
            .values(closed_at=now)
        )
        return self._database.execute(statement) > 0

    def list_open(self, kind: str) -> list[Notification]:
        """Return what lasts of a kind, oldest first."""
        return self._read(notifications.c.kind == kind, notifications.c.closed_at.is_(None))

    def for_subject(self, subject: str, *, limit: int) -> list[Notification]:
        """Return the first notices about a run, sink or webhook, oldest first."""
        return self._read(notifications.c.subject == subject, limit=limit)

    def _insert(self, notification: Notification, *, closed_at: datetime | None) -> bool:
        with self._database.transaction() as connection:
            return insert_notification(connection, notification, closed_at=closed_at)

    def _read(self, *conditions: Any, limit: int | None = None) -> list[Notification]:
        statement = (
            select(notifications)
            .where(*conditions)
            .order_by(notifications.c.occurred_at, notifications.c.kind, notifications.c.id)
            .limit(limit)
        )
        return [to_notification(row._mapping) for row in self._database.read(statement)]


def insert_notification(
    connection: Connection, notification: Notification, *, closed_at: datetime | None
) -> bool:
    """Keep a notice as part of the caller's transaction; False where it is there already."""
    row = {
        "id": notification.id,
        **{name: getattr(notification, name) for name in ("kind", "subject", "cause", "occurred_at")},
        # Not escaped: what no database holds is replaced on its way in, and comes out fit to be sent.
        "payload": json.dumps(notification.payload, ensure_ascii=False, allow_nan=False),
        "closed_at": closed_at,
    }
    # Whatever it conflicts with: its own id, or the one that lasts.
    statement = insert_into(connection.dialect.name, notifications).on_conflict_do_nothing()
    return bool(connection.execute(statement.returning(notifications.c.id), row).all())


def to_notification(row: RowMapping) -> Notification:
    """Return a row of the table, or one that holds its columns, as a notice."""
    known = {name: row[name] for name in ("kind", "subject", "cause", "occurred_at")}
    return Notification(**known, payload=json.loads(row["payload"]))
