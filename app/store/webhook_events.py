"""The newest event of each webhook, to detect one that has become silent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from app.database.engine import Database
from app.database.upsert import insert_into
from app.store.schema import webhook_events


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """A webhook, and when its newest event was received."""

    webhook_id: str
    last_event_at: datetime


class WebhookEvents:
    """The webhooks that have sent verified events. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, times: Mapping[str, datetime]) -> None:
        """Store when events of webhooks were received, by webhook id; an older time changes nothing."""
        insert = insert_into(self._database.dialect.name, webhook_events)
        new = insert.excluded.last_event_at
        statement = insert.on_conflict_do_update(
            index_elements=[webhook_events.c.webhook_id],
            set_={"last_event_at": new},
            where=new > webhook_events.c.last_event_at,
        )
        # In order: two processes that update the same rows in another order would deadlock.
        rows = [{"webhook_id": id_, "last_event_at": time} for id_, time in sorted(times.items())]
        self._database.execute(statement.values(rows))

    def list_newest(self, *, limit: int) -> Sequence[WebhookEvent]:
        """Return the webhooks with the newest events, newest first."""
        statement = (
            select(webhook_events)
            .order_by(webhook_events.c.last_event_at.desc(), webhook_events.c.webhook_id)
            .limit(limit)
        )
        return [WebhookEvent(row.webhook_id, row.last_event_at) for row in self._database.read(statement)]
