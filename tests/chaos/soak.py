"""One soak: traffic and faults, the wait for pending deliveries, the audit."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from redis import Redis

from app.database.engine import open_database
from app.simulator.event_writer import EventClock
from app.simulator.plan import Plan
from app.truto.webhook_sender import WebhookSender, open_http_client
from tests.chaos.audit import AuditResult, audit
from tests.chaos.faults import inject_fault
from tests.chaos.plan import Fault
from tests.chaos.site import Site, running_site
from tests.chaos.traffic import Traffic
from tests.chaos.watch import Recovery, RecoveryWatch
from tests.support.processes import ROOT
from tests.support.web_process import SECRET

_SENDERS = 8
_RECOVERY_TIMEOUT_S = 120.0
_READY_TIMEOUT_S = 60.0
# Sending continues after the last fault, so that its recovery can be observed.
_LAST_RECOVERY_S = 3.0
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Soak:
    """The plan of one soak.

    seed: of the traffic. faults: injected one after the other. min_sending_s: sending lasts until every fault
    is injected, and at least this long. max_sending_s: no fault is injected after it, for an endless plan.
    records_per_s: sent at most. waits_for_recovery: wait after a fault until the service has recovered.
    settle_timeout_s: for the deliveries that are pending at the end. tree: the source that runs.
    report_progress: called with a line for each step.
    """

    seed: str
    faults: Iterable[Fault]
    min_sending_s: float
    max_sending_s: float = math.inf
    records_per_s: float = 1500.0
    waits_for_recovery: bool = False
    settle_timeout_s: float = 180.0
    tree: Path = ROOT
    report_progress: Callable[[str], None] = print


@dataclass(frozen=True, slots=True)
class SoakReport:
    """The result of a soak.

    settled_s: from the last delivery until nothing was pending, or the timeout. readiness_error: the answer of
    /readyz at the end, "" if the service is ready.
    """

    audit_result: AuditResult
    recoveries: Sequence[Recovery]
    settled_s: float
    readiness_error: str

    @property
    def is_fine(self) -> bool:
        """Whether the audit found no fault and the service is ready."""
        return not self.readiness_error and not self.audit_result.faults


def run_soak(soak: Soak, folder: Path) -> SoakReport:
    """Soak an installation; its logs are left in the folder."""
    traffic = Traffic(soak.seed, EventClock(lambda: datetime.now(UTC)))
    with (
        running_site(folder, tree=soak.tree) as site,
        Redis.from_url(site.valkey.url, socket_timeout=2) as redis,
    ):
        database = open_database(site.database_url)
        watch = RecoveryWatch(database, redis, traffic)
        with watch.running():
            with _sending(soak, site, traffic):
                _inject_all(soak, site, watch, traffic)
            soak.report_progress("no more faults and deliveries: waiting for pending deliveries")
            settled_s = _wait_for(lambda: watch.is_idle, soak.settle_timeout_s)
        readiness_error = _wait_until_ready(site)
        soak.report_progress(f"settled after {settled_s:.1f} s: comparing")
        report = SoakReport(
            audit(traffic.sent, database, site.lake), watch.recoveries, settled_s, readiness_error
        )
        database.close()
    return report


def _wait_until_ready(site: Site) -> str:
    """Wait until the service is ready; return its last answer if it never is."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while (error := site.readiness_error) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return error


@contextmanager
def _sending(soak: Soak, site: Site, traffic: Traffic) -> Iterator[None]:
    """Send from several threads inside the block; at its end, finish current deliveries and their retries."""
    plan = Plan(site.webhook_url, SECRET, soak.seed, parallel=_SENDERS)
    stopped = Event()
    with open_http_client(plan.parallel) as client, ThreadPoolExecutor(_SENDERS) as pool:
        rate = soak.records_per_s / _SENDERS
        senders = [
            pool.submit(traffic.run, place, WebhookSender(plan.target, client, Event()), stopped, rate)
            for place in range(_SENDERS)
        ]
        try:
            yield
        finally:
            stopped.set()
        for sender in senders:
            sender.result()


def _inject_all(soak: Soak, site: Site, watch: RecoveryWatch, traffic: Traffic) -> None:
    for number, fault in enumerate(soak.faults, 1):
        if watch.now_s + fault.delay_s + fault.duration_s + _LAST_RECOVERY_S > soak.max_sending_s:
            break
        time.sleep(fault.delay_s)
        started_s = watch.now_s
        inject_fault(site, fault)
        watch.add_fault(fault, started_s)
        duration_text = f" for {fault.duration_s:.1f} s" if fault.duration_s else ""
        soak.report_progress(
            f"{started_s:7.1f} s  {number:4}  {fault.kind}{duration_text}; "
            f"{traffic.acknowledged_count} acknowledged"
        )
        if soak.waits_for_recovery:
            _wait_for(lambda: watch.has_recovered, _RECOVERY_TIMEOUT_S)
    time.sleep(max(_LAST_RECOVERY_S, soak.min_sending_s - watch.now_s))


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for a condition until a timeout; return the time that it took, in seconds."""
    started = time.monotonic()
    while not condition() and time.monotonic() - started < timeout_s:
        time.sleep(_POLL_S)
    return time.monotonic() - started
