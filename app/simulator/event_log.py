"""What Truto logs of a run."""

from dataclasses import dataclass
from datetime import datetime

from app.simulator.events import Clock
from app.truto.webhook_sender import Outcome


@dataclass(frozen=True, slots=True)
class LogLine:
    """What became of one page, or of one record error. event: record or record_error."""

    created_at: datetime
    event: str
    resource: str
    method: str
    num_records: int
    outcome: Outcome


class RunLog:
    """The lines of one run, as they come."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lines: list[LogLine] = []

    def add(self, event: str, resource: str, method: str, outcome: Outcome, *, num_records: int = 0) -> None:
        """Log what just became of something."""
        self.lines.append(LogLine(self._clock.now(), event, resource, method, num_records, outcome))
