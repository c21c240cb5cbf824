"""A rolling upgrade and its way back under traffic: two releases on one database and one Redis."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from threading import Event

import httpx
from redis import Redis

from app.database.engine import open_database
from app.simulator.event_writer import EventClock
from app.truto.webhook_sender import SendOutcome, WebhookSender, WebhookTarget, open_sender_client
from tests.chaos.audit import AuditResult, audit
from tests.chaos.faults import inject_fault
from tests.chaos.plan import Fault
from tests.chaos.site import SOON, Installation, Site, running_site
from tests.chaos.traffic import Traffic, sending
from tests.chaos.watch import is_idle
from tests.support.waiting import wait_until

_SENDERS = 4
_RECORDS_PER_S = 1500.0
# Every release that runs must do this much in each phase.
_MIN_ACCEPTED, _MIN_SETTLED = 20, 20
_PHASE_TIMEOUT_S = 90.0
_SETTLE_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A time with the same releases. accepted, settled: numbers of deliveries by release."""

    name: str
    accepted: Mapping[str, int]
    settled: Mapping[str, int]


@dataclass(slots=True)
class UpgradeReport:
    """The phases, and the comparison at the end. given_up: deliveries that no release accepted."""

    audit_result: AuditResult
    phases: list[Phase] = field(default_factory=list)
    given_up: int = 0

    def render(self) -> str:
        """Return the phases as a Markdown table, and the faults."""
        releases = list(self.phases[-1].accepted)
        heads = [f"{verb} by {release}" for verb in ("accepted", "settled") for release in releases]
        lines = [f"| phase | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
        for phase in self.phases:
            counts = [numbers[release] for numbers in (phase.accepted, phase.settled) for release in releases]
            lines.append(f"| {phase.name} | {' | '.join(f'{number:,}' for number in counts)} |")
        faults = ", ".join(f"{fault} {number}" for fault, number in self.audit_result.faults.items())
        lines += ["", f"given up: {self.given_up}; faults: {faults or 'none'}"]
        return "\n".join([*lines, *self.audit_result.examples])


class _Router:
    """Sends deliveries to the running releases in turn, as the router of a platform does."""

    def __init__(self, secret: str, client: httpx.Client) -> None:
        self._secret = secret
        self._client = client
        self._turns = count()
        self._senders: Sequence[WebhookSender] = ()

    def set_targets(self, installations: Sequence[Installation]) -> None:
        """Send further deliveries to these."""
        self._senders = [
            WebhookSender(WebhookTarget(one.webhook_url, self._secret), self._client, Event())
            for one in installations
        ]

    def send(self, body: bytes, /) -> SendOutcome:
        """Send a body to the next release."""
        senders = self._senders
        return senders[next(self._turns) % len(senders)].send(body)


class Rollout:
    """The releases of one installation, by version, and those that run now."""

    def __init__(self, releases: Mapping[str, Installation], router: _Router, report: UpgradeReport) -> None:
        self._releases = releases
        self.router = router
        self._report = report
        self._running: list[str] = []

    def start(self, version: str, *, is_running: bool = False) -> None:
        """Start a release, and send it deliveries once it is up."""
        installation = self._releases[version]
        if not is_running:
            for program in installation.programs:
                program.start()
        installation.wait_until_up()
        self._running.append(version)
        self.router.set_targets([self._releases[one] for one in self._running])

    def stop(self, version: str) -> None:
        """Send a release no more deliveries, and end it as a platform does."""
        self._running.remove(version)
        self.router.set_targets([self._releases[one] for one in self._running])
        for program in self._releases[version].programs:
            program.terminate()

    def run_phase(self, name: str, action: Callable[[], None] = lambda: None) -> None:
        """Wait until each running release has accepted and settled deliveries, before and after an action."""
        before = self._count_lines()
        self._wait_for_progress(before)
        action()
        self._wait_for_progress(self._count_lines())
        after = self._count_lines()
        accepted, settled = (
            {version: after[version][kind] - before[version][kind] for version in self._releases}
            for kind in ("accepted", "settled")
        )
        self._report.phases.append(Phase(name, accepted, settled))

    def _wait_for_progress(self, before: Mapping[str, Counter[str]]) -> None:
        def has_progressed() -> bool:
            now = self._count_lines()
            return all(
                now[one]["accepted"] - before[one]["accepted"] >= _MIN_ACCEPTED
                and now[one]["settled"] - before[one]["settled"] >= _MIN_SETTLED
                for one in self._running
            )

        wait_until(
            has_progressed,
            timeout_s=_PHASE_TIMEOUT_S,
            interval_s=0.3,
            what=lambda: f"work of {self._running}: {before}, now {self._count_lines()}",
        )

    def _count_lines(self) -> dict[str, Counter[str]]:
        """Return the numbers of deliveries that the logs of each release name."""
        return {
            version: Counter(
                accepted=_count_in(one.web.log, "delivery.accepted"),
                settled=sum(_count_in(worker.log, "delivery.settled") for worker in one.workers),
            )
            for version, one in self._releases.items()
        }


def run_upgrade(previous: tuple[str, Path], current: tuple[str, Path], folder: Path) -> UpgradeReport:
    """Replace one release by another, go back, and upgrade for good, without a pause in the traffic.

    previous, current: the version and the source tree of each release.
    """
    report = UpgradeReport(AuditResult())
    # The release before may not know every option.
    with running_site(folder, tree=previous[1], files_options="") as site, ExitStack() as stack:
        old, new = site.main, site.main.build_beside(current[1], folder / "main" / "new")
        for program in new.programs:
            stack.callback(program.kill)
        client = stack.enter_context(open_sender_client(_SENDERS))
        rollout = Rollout({previous[0]: old, current[0]: new}, _Router(old.secret, client), report)
        rollout.start(previous[0], is_running=True)
        traffic = Traffic("main", "upgrade", EventClock(lambda: datetime.now(UTC)))
        senders = [rollout.router] * _SENDERS
        with sending(traffic, senders, records_per_s=_RECORDS_PER_S / _SENDERS):
            _roll(rollout, site, previous[0], current[0], new)
        report.given_up = traffic.given_up_count
        _settle_and_audit(site, traffic, report.audit_result)
    return report


def _roll(rollout: Rollout, site: Site, previous: str, current: str, new: Installation) -> None:
    def fail_briefly() -> None:
        # Both releases spool deliveries, and each may find those of the other.
        inject_fault(site, Fault("main database closed", duration_s=2.0))

    rollout.run_phase(f"{previous} alone, then on the migrated tables", new.migrate)
    rollout.start(current)
    rollout.run_phase("side by side, with an outage of the database", fail_briefly)
    rollout.stop(previous)
    rollout.run_phase(f"{current} alone")
    rollout.start(previous)
    rollout.run_phase("on the way back, with an outage of the database", fail_briefly)
    rollout.stop(current)
    rollout.run_phase(f"{previous} alone again")
    rollout.start(current)
    rollout.stop(previous)
    rollout.run_phase(f"{current} for good", lambda: new.write_routes(SOON))


def _settle_and_audit(site: Site, traffic: Traffic, result: AuditResult) -> None:
    nobody = Traffic(site.neighbour.name, "upgrade", EventClock(lambda: datetime.now(UTC)))
    with Redis.from_url(site.valkey.url, socket_timeout=2) as redis:
        database = open_database(site.main.database_url)
        try:
            wait_until(
                lambda: is_idle([database], redis),
                timeout_s=_SETTLE_TIMEOUT_S,
                interval_s=0.3,
                what="all deliveries to settle",
            )
            audit(traffic, nobody, database, site.main.lake, result)
        finally:
            database.close()


def _count_in(log: Path, event: str) -> int:
    return log.read_text().count(event) if log.exists() else 0
