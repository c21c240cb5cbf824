"""One soak: traffic and faults, the wait for pending deliveries, the audit."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

from redis import Redis

from app.database.engine import open_database
from app.simulator.event_writer import EventClock
from app.simulator.plan import Plan
from app.truto.webhook_sender import WebhookSender, open_sender_client
from tests.chaos.audit import AuditResult, audit
from tests.chaos.faults import inject_fault
from tests.chaos.leaks import LeakSearch
from tests.chaos.plan import KEEPS_CONNECTIONS, Fault
from tests.chaos.site import Installation, Site, running_site
from tests.chaos.spools import count_spooled
from tests.chaos.traffic import Traffic, sending
from tests.chaos.watch import Recovery, RecoveryWatch
from tests.support.processes import ROOT

# By installation.
_SENDERS = {"main": 8, "neighbour": 2}
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
    result = AuditResult()
    with (
        running_site(folder, tree=soak.tree) as site,
        Redis.from_url(site.valkey.url, socket_timeout=2) as redis,
        ExitStack() as stack,
    ):
        traffics = [
            Traffic(installation.name, soak.seed, EventClock(lambda: datetime.now(UTC)))
            for installation in site.installations
        ]
        databases = [open_database(installation.database_url) for installation in site.installations]
        for database in databases:
            stack.callback(database.close)
        watch = RecoveryWatch(databases, redis, traffics)
        leaks = LeakSearch(site.installations, result)
        with watch.running(), leaks.running():
            with ExitStack() as senders:
                for installation, traffic in zip(site.installations, traffics, strict=True):
                    senders.enter_context(_sending(soak, installation, traffic))
                _inject_all(soak, site, watch, traffics, result)
            soak.report_progress("no more faults and deliveries: waiting for pending deliveries")
            settled_s = _wait_for(lambda: watch.is_idle, soak.settle_timeout_s)
        readiness_error = _wait_until_ready(site)
        soak.report_progress(f"settled after {settled_s:.1f} s: comparing")
        result.counts["deliveries left in Redis"] = count_spooled(redis)
        leaks.search_logs()
        leaks.search_commands()
        for released in site.released_leases:
            result.add_fault("released", released)
        for number, installation in enumerate(site.installations):
            audit(traffics[number], traffics[1 - number], databases[number], installation.lake, result)
    return SoakReport(result, watch.recoveries, settled_s, readiness_error)


def _wait_until_ready(site: Site) -> str:
    """Wait until both installations are ready; return the last answer of one that never is."""
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        errors = [installation.readiness_error for installation in site.installations]
        if not any(errors) or time.monotonic() > deadline:
            return " ".join(filter(None, errors))
        time.sleep(_POLL_S)


@contextmanager
def _sending(soak: Soak, installation: Installation, traffic: Traffic) -> Iterator[None]:
    """Send from several threads inside the block; at its end, finish current deliveries and their retries."""
    senders = _SENDERS[installation.name]
    plan = Plan(installation.webhook_url, installation.secret, soak.seed, parallel=senders)
    rate = soak.records_per_s / sum(_SENDERS.values())
    with open_sender_client(senders) as client:
        all_senders = [WebhookSender(plan.target, client, Event()) for _ in range(senders)]
        with sending(traffic, all_senders, records_per_s=rate):
            yield


def _inject_all(
    soak: Soak, site: Site, watch: RecoveryWatch, traffics: Sequence[Traffic], result: AuditResult
) -> None:
    for number, fault in enumerate(soak.faults, 1):
        if watch.now_s + fault.delay_s + fault.duration_s + _LAST_RECOVERY_S > soak.max_sending_s:
            break
        time.sleep(fault.delay_s)
        started_s = watch.now_s
        inject_fault(site, fault)
        watch.add_fault(fault, started_s)
        duration_text = f" for {fault.duration_s:.1f} s" if fault.duration_s else ""
        acknowledged = ", ".join(f"{traffic.acknowledged_count} by {traffic.name}" for traffic in traffics)
        soak.report_progress(
            f"{started_s:7.1f} s  {number:4}  {fault.kind}{duration_text}; acknowledged: {acknowledged}"
        )
        if soak.waits_for_recovery or fault.kind in KEEPS_CONNECTIONS:
            waited_s = _wait_for(lambda: watch.has_recovered, _RECOVERY_TIMEOUT_S)
            if not watch.has_recovered:
                result.add_fault("stuck", f"{waited_s:.0f} s after {fault.kind!r} at {started_s:.1f} s")
    time.sleep(max(_LAST_RECOVERY_S, soak.min_sending_s - watch.now_s))


def _wait_for(condition: Callable[[], bool], timeout_s: float) -> float:
    """Wait for a condition until a timeout; return the time that it took, in seconds."""
    started = time.monotonic()
    while not condition() and time.monotonic() - started < timeout_s:
        time.sleep(_POLL_S)
    return time.monotonic() - started
