"""The outbox of notifications: one delivery for each subscriber, until sent or dead."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import case, func, literal_column, select, update

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.notifications import AWAITED, DUE, Notification, to_notification
from app.store.schema import notification_deliveries, notifications

_LATE_AFTER = timedelta(minutes=5)
_DEAD_SHOWN = timedelta(days=7)


class Subscriber(Protocol):
    """An address that accepts some kinds of notifications."""

    @property
    def name(self) -> str: ...
    @property
    def receives_ends(self) -> bool: ...
    def accepts(self, kind: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class NotificationDelivery:
    """One notification, or the end of its condition, for one subscriber.

    attempts: including this one. created_at: of the delivery, or the end of the condition.
    """

    notification: Notification
    subscriber: str
    attempts: int
    created_at: datetime
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class UnsentNotifications:
    """Notifications that a subscriber has not accepted. message: the error of one of them, "" for none."""

    subscriber: str
    notifications: int
    message: str


class NotificationOutbox:
    """The notification deliveries. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def fan_out(self, subscribers: Sequence[Subscriber], *, now: datetime, limit: int) -> int:
        """Create the deliveries of new notifications, oldest first; return the number of notifications.

        Safe in several processes at once: only one of them fans out a notification.
        """
        unsent_statement = (
            select(
                notifications.c.id,
                notifications.c.kind,
                notifications.c.occurred_at,
                notifications.c.closed_at,
            )
            .where(notifications.c.fanned_out_at.is_(None))
            .order_by(notifications.c.occurred_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with self._database.transaction() as connection:
            unsent = connection.execute(unsent_statement).all()
            rows = [
                {
                    "notification_id": notification.id,
                    "subscriber": subscriber.name,
                    "state": "pending",
                    "due_at": now,
                    "ending": _find_ending(notification) if subscriber.receives_ends else "",
                }
                for notification in unsent
                for subscriber in subscribers
                if subscriber.accepts(notification.kind)
            ]
            if rows:
                statement = insert_into(connection.dialect.name, notification_deliveries)
                connection.execute(statement.on_conflict_do_nothing(), rows)
            if unsent:
                ids = [notification.id for notification in unsent]
                connection.execute(
                    update(notifications).where(notifications.c.id.in_(ids)).values(fanned_out_at=now)
                )
        return len(unsent)

    def lease_next(self, subscriber: str, *, now: datetime, lease_s: float) -> NotificationDelivery | None:
        """Lease the subscriber's delivery that is due longest; None if none is due. Counts as an attempt.

        The lease ends after `lease_s` seconds: a process that dies while sending does not lose the delivery.
        """
        due = (
            select(notification_deliveries, notifications)
            .join(notifications, notifications.c.id == notification_deliveries.c.notification_id)
            .where(
                notification_deliveries.c.state == "pending",
                notification_deliveries.c.due_at <= now,
                notification_deliveries.c.subscriber == subscriber,
            )
            .order_by(notification_deliveries.c.due_at)
            .limit(1)
            .with_for_update(of=notification_deliveries, skip_locked=True)
        )
        with self._database.transaction() as connection:
            row = connection.execute(due).mappings().first()
            if row is None:
                return None
            is_ending = row["ending"] == DUE
            delivery = NotificationDelivery(
                to_notification(row),
                subscriber,
                row["attempts"] + 1,
                row["closed_at"] if is_ending else row["fanned_out_at"],
                is_ending,
            )
            until = now + timedelta(seconds=lease_s)
            connection.execute(_build_update(delivery).values(due_at=until, attempts=delivery.attempts))
        return delivery

    def find_unsent(self, *, now: datetime) -> list[UnsentNotifications]:
        """Return by subscriber the dead deliveries of a week, and those pending for minutes.

        A subscriber that was removed from the routes file accepts nothing.
        """
        table = notification_deliveries
        # Two statements, each of which uses a partial index.
        is_dead = (table.c.state == literal_column("'dead'"), notifications.c.occurred_at > now - _DEAD_SHOWN)
        is_late = (
            table.c.state == literal_column("'pending'"),
            notifications.c.fanned_out_at < now - _LATE_AFTER,
        )
        unsent: dict[str, UnsentNotifications] = {}
        for conditions in (is_dead, is_late):
            statement = (
                select(table.c.subscriber, func.count(), func.max(table.c.message))
                .join(notifications, notifications.c.id == table.c.notification_id)
                .where(*conditions)
                .group_by(table.c.subscriber)
            )
            for subscriber, number, message in self._database.read(statement):
                known = unsent.get(subscriber, UnsentNotifications(subscriber, 0, ""))
                unsent[subscriber] = UnsentNotifications(
                    subscriber, known.notifications + number, message or known.message
                )
        return sorted(unsent.values(), key=lambda group: group.subscriber)

    def mark_sent(self, delivery: NotificationDelivery) -> None:
        """Mark a delivery as sent, even if another attempt has failed meanwhile.

        If the condition ended while its beginning was sent, its end is sent when the lease ends.
        """
        has_ended = notification_deliveries.c.ending == DUE
        state = "sent" if delivery.is_ending else case((has_ended, "pending"), else_="sent")
        self._database.execute(_build_update(delivery).values(state=state, message=""))

    def reschedule(self, delivery: NotificationDelivery, *, due_at: datetime, message: str) -> None:
        """Retry a delivery at `due_at`. message: the error of this attempt."""
        self._database.execute(_build_update_if_leased(delivery).values(due_at=due_at, message=message))

    def mark_dead(self, delivery: NotificationDelivery, message: str) -> None:
        """Give up on a delivery. message: the error of the last attempt."""
        self._database.execute(_build_update_if_leased(delivery).values(state="dead", message=message))


def _find_ending(notification: Any) -> str:
    if notification.closed_at is None:
        return AWAITED
    # An event is closed when it occurs, and has no end.
    return "" if notification.closed_at == notification.occurred_at else DUE


def _build_update(delivery: NotificationDelivery) -> Any:
    return update(notification_deliveries).where(
        notification_deliveries.c.notification_id == delivery.notification.id,
        notification_deliveries.c.subscriber == delivery.subscriber,
    )


def _build_update_if_leased(delivery: NotificationDelivery) -> Any:
    # An attempt that ends after its lease must not overwrite the result of a later attempt.
    return _build_update(delivery).where(
        notification_deliveries.c.state == "pending", notification_deliveries.c.attempts == delivery.attempts
    )
