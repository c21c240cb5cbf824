"""Sinks that do not take what they are to have."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from app.database.engine import Store, autocommit, translate_errors
from app.store.schema import deliveries, sink_outcomes


@dataclass(frozen=True, slots=True)
class FailingSink:
    """A sink for which deliveries wait. since: when the oldest of them came. reason: one of theirs."""

    sink: str
    since: datetime
    reason: str
    deliveries: int


def find_failing_sinks(store: Store) -> list[FailingSink]:
    """Return the sinks that were tried and did not take everything yet; raises StoreUnavailable."""
    statement = (
        select(
            sink_outcomes.c.sink,
            func.min(deliveries.c.received_at),
            func.max(sink_outcomes.c.reason),
            func.count(),
        )
        .select_from(sink_outcomes.join(deliveries, deliveries.c.id == sink_outcomes.c.delivery_id))
        # What was given up in the end keeps its last outcome, and waits no more.
        .where(sink_outcomes.c.state == "failing", deliveries.c.settled_at.is_(None))
        .group_by(sink_outcomes.c.sink)
        .order_by(sink_outcomes.c.sink)
    )
    with translate_errors(), autocommit(store) as connection:
        return [FailingSink(*row) for row in connection.execute(statement)]
