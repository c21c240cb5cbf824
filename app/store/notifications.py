"""Notifications: events once per cause, conditions open until they end."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, Update, case, func, select, update

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.schema import notification_deliveries, notifications, replace_unstorable

# The end of a condition, for a subscriber that receives it.
AWAITED, DUE = "awaited", "due"


@dataclass(frozen=True, slots=True)
class Notification:
    """An event, or a condition that began.

    kind: such as "run.reconciled". subject: the id of its run, sink or webhook, or a resource. cause:
    distinguishes notifications of the same kind and subject. payload: the JSON to send.
    """

    kind: str
    subject: str
    cause: str
    occurred_at: datetime
    payload: Mapping[str, Any]

    @property
    def id(self) -> UUID:
        """An id made of kind, subject and cause: the same event found again has the same id."""
        # As JSON: with another separator, two different triples could be equal.
        name = json.dumps([replace_unstorable(part) for part in (self.kind, self.subject, self.cause)])
        return UUID(bytes=hashlib.sha256(name.encode()).digest()[:16])


class Notifications:
    """The notifications. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, notification: Notification) -> bool:
        """Store the notification of an event; return False if it exists."""
        return self._insert(notification, closed_at=notification.occurred_at)

    def open(self, notification: Notification) -> bool:
        """Open the notification of a condition; return False if it exists, or one for the subject is open."""
        return self._insert(notification, closed_at=None)

    def close(self, kind: str, subject: str, *, now: datetime) -> bool:
        """Close the open notification of a condition; return False if none is open.

        Subscribers that receive ends get another attempt, which sends the end.
        """
        statement = (
            update(notifications)
            .where(
                notifications.c.kind == kind,
                notifications.c.subject == subject,
                notifications.c.closed_at.is_(None),
            )
            .values(closed_at=now)
            .returning(notifications.c.id)
        )
        with self._database.transaction() as connection:
            closed_id = connection.execute(statement).scalar()
            if closed_id is not None:
                connection.execute(_build_ending(closed_id, now=now))
        return closed_id is not None

    def list_open(self, kind: str, *, limit: int | None = None) -> list[Notification]:
        """Return the open notifications of a kind, oldest first."""
        return self._read(notifications.c.kind == kind, notifications.c.closed_at.is_(None), limit=limit)

    def count_open(self) -> dict[str, int]:
        """Return the numbers of open notifications by kind."""
        statement = (
            select(notifications.c.kind, func.count())
            .where(notifications.c.closed_at.is_(None))
            .group_by(notifications.c.kind)
        )
        return {kind: int(number) for kind, number in self._database.read(statement)}

    def count_since(self, kind: str, since: datetime) -> int:
        """Return the number of notifications of a kind that occurred since a time."""
        statement = select(func.count()).where(
            notifications.c.kind == kind, notifications.c.occurred_at >= since
        )
        return int(self._database.read(statement)[0][0])

    def for_subject(self, subject: str, *, limit: int) -> list[Notification]:
        """Return the first notifications about a run, sink or webhook, oldest first."""
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
    """Store a notification in the caller's transaction; return False if it exists."""
    row = {
        "id": notification.id,
        "kind": notification.kind,
        "subject": notification.subject,
        "cause": notification.cause,
        "occurred_at": notification.occurred_at,
        # Not escaped, so that SafeText replaces characters that no database can store.
        "payload": json.dumps(notification.payload, ensure_ascii=False, allow_nan=False),
        "closed_at": closed_at,
    }
    # Conflicts with the same id, or with an open notification for the same subject.
    statement = insert_into(connection.dialect.name, notifications).on_conflict_do_nothing()
    return bool(connection.execute(statement.returning(notifications.c.id), row).all())


def _build_ending(notification_id: UUID, *, now: datetime) -> Update:
    """Return the statement that makes the end of a condition due for subscribers that receive it."""
    columns = notification_deliveries.c
    was_sent = columns.state == "sent"
    return (
        update(notification_deliveries)
        # Without a condition on the state: a delivery that is just being sent is locked, and read again.
        .where(columns.notification_id == notification_id, columns.ending == AWAITED)
        .values(
            ending=DUE,
            # Nothing needs to end at a subscriber that never received the beginning.
            state=case((was_sent, "pending"), else_=columns.state),
            due_at=case((was_sent, now), else_=columns.due_at),
            attempts=case((was_sent, 0), else_=columns.attempts),
        )
    )


def to_notification(row: RowMapping) -> Notification:
    """Return a row that has the columns of the table as a notification."""
    return Notification(
        kind=row["kind"],
        subject=row["subject"],
        cause=row["cause"],
        occurred_at=row["occurred_at"],
        payload=json.loads(row["payload"]),
    )
