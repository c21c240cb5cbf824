"""Report and log of a simulated run."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from app.simulator.event_writer import EventClock
from app.truto.webhook_sender import SendOutcome


@dataclass(slots=True)
class RunReport:
    """The events that a run sent, and the records that a sink must have after it.

    refusal_reason: the receiver's, of a run with the status "refused". fetched: records by (resource,
    method). persisted: records of pages that got a 200, late pages included. lost: records of pages that were
    never sent. dropped: pages and record errors that the receiver rejected. rejected_events: the same for
    lifecycle events, apart from a refused start. record_errors: record errors that got a 200. expected: by
    (resource, id), the newest version that got a 200, as (created_at, digest). response_counts: the
    receiver's answers by status.
    """

    sync_job_run_id: str
    sync_job_id: str
    integrated_account_id: str
    status: str = "created"
    refusal_reason: str = ""
    fetched: Counter[tuple[str, str]] = field(default_factory=Counter)
    persisted: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: int = 0
    rejected_events: int = 0
    record_errors: int = 0
    expected: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    response_counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class EventLogEntry:
    """The outcome of one page or one record error. event: record or record_error."""

    created_at: datetime
    event: str
    resource: str
    method: str
    num_records: int
    outcome: SendOutcome


class EventLog:
    """Truto's log of one run, in order of time."""

    def __init__(self, clock: EventClock) -> None:
        self._clock = clock
        self.entries: list[EventLogEntry] = []

    def add(
        self, event: str, resource: str, method: str, outcome: SendOutcome, *, num_records: int = 0
    ) -> None:
        """Add an entry with the current time."""
        self.entries.append(EventLogEntry(self._clock.now(), event, resource, method, num_records, outcome))
