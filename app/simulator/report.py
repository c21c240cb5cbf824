"""What came of a simulated run."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class RunReport:
    """What a run did, and what a sink must hold of it.

    fetched: records by (resource, method); persisted: those whose page got a 200, late ones included; lost:
    those whose page was never sent. dropped: pages and record errors that the receiver did not take.
    record_errors: those that got a 200. expected: by (resource, id) the newest version that got a 200, as
    (created_at, digest). answers: what the receiver said, and how often.
    """

    sync_job_run_id: str
    sync_job_id: str
    integrated_account_id: str
    status: str = "created"
    fetched: Counter[tuple[str, str]] = field(default_factory=Counter)
    persisted: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: int = 0
    record_errors: int = 0
    expected: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)
    response_counts: Counter[str] = field(default_factory=Counter)
