"""The timeline of a run: its events, its pages, its stop and the notifications about it; pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.store.audit_log import AuditEntry
from app.store.notifications import Notification
from app.store.run_detail import RunEvents
from app.store.runs import StoredRun


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One moment of a run. delivery_id: of the event; None for all other entries."""

    at: datetime
    text: str
    delivery_id: UUID | None = None


def build_timeline(
    run: StoredRun,
    events: RunEvents,
    notifications: Sequence[Notification],
    stop_requests: Sequence[AuditEntry],
) -> list[TimelineEntry]:
    """Return the entries of a run, oldest first. stop_requests: of operators."""
    entries = [
        *_list_event_entries(events),
        *(TimelineEntry(request.at, f"stop requested ({request.actor})") for request in stop_requests),
        *_list_run_entries(run),
        *map(_build_notification_entry, notifications),
    ]
    # Stable: entries of the same time stay in the order of the path of a run.
    return sorted(entries, key=lambda entry: entry.at)


def _list_event_entries(events: RunEvents) -> Iterator[TimelineEntry]:
    for event in events.events:
        yield TimelineEntry(event.received_at, f"event {event.event} received", event.delivery_id)
    if events.first_page_at:
        yield TimelineEntry(events.first_page_at, "first page received")
    if events.last_page_at and events.last_page_at != events.first_page_at:
        yield TimelineEntry(events.last_page_at, "last page received")


def _list_run_entries(run: StoredRun) -> Iterator[TimelineEntry]:
    if run.stop_sent_at:
        yield TimelineEntry(run.stop_sent_at, f"Truto accepted the stop: {run.stop_reason}")
    if run.reconciled_at:
        yield TimelineEntry(run.reconciled_at, "reconciled")


def _build_notification_entry(notification: Notification) -> TimelineEntry:
    payload = notification.payload
    details = [str(payload[name]) for name in ("verdict", "reason", "error") if payload.get(name)]
    text = f"notification {notification.kind}"
    return TimelineEntry(notification.occurred_at, f"{text}: {'; '.join(details)}" if details else text)
