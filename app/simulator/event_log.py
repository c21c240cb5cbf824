"""What Truto logs of a run."""

from dataclasses import dataclass
from datetime import datetime

from app.simulator.event_writer import EventClock
from app.truto.webhook_sender import SendOutcome


@dataclass(frozen=True, slots=True)
class EventLogEntry:
    """What became of one page, or of one record error. event: record or record_error."""

    created_at: datetime
    event: str
    resource: str
    method: str
    num_records: int
    outcome: SendOutcome


class EventLog:
    """The lines of one run, as they come."""

    def __init__(self, clock: EventClock) -> None:
        self._clock = clock
        self.entries: list[EventLogEntry] = []

    def add(
        self, event: str, resource: str, method: str, outcome: SendOutcome, *, num_records: int = 0
    ) -> None:
        """Log what just became of something."""
        self.entries.append(EventLogEntry(self._clock.now(), event, resource, method, num_records, outcome))
