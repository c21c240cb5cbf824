"""Removes all there is of an integrated account: in Redis, in the store, and in every sink."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from app.config.load import Config
from app.database.engine import Database, open_database
from app.errors import QueueUnavailable, SinkRefused, SinkUnavailable
from app.redis.queue import connect_redis
from app.redis.spool import Spool
from app.sinks import SinkRegistry
from app.sinks.base import Sink
from app.store.erasure import AccountData, AccountDataCounts

SPOOL = "spool"
# Something may have been under way, from Redis into the inbox or from there into a sink, in the first.
_MAX_PASSES = 4
_POLL_INTERVAL_S = 0.5


@dataclass(slots=True)
class ErasureReport:
    """Numbers by place, and why places were not reached. in_hand: deliveries that workers may write yet."""

    counts: dict[str, int] = field(default_factory=dict)
    unreached: dict[str, str] = field(default_factory=dict)
    in_progress: int = 0

    @property
    def total(self) -> int:
        """How much it is in all places."""
        return sum(self.counts.values())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to erase, nothing in progress and no place that could not be checked."""
        return not (self.total or self.in_progress or self.unreached)

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Add what was found in places."""
        for place, number in counts.items():
            self.counts[place] = self.counts.get(place, 0) + number


class Erasure:
    """Of one account, all that came until it was made. Raises StoreUnavailable; all else is told.

    spool: None where it cannot be reached at all. open_sink: as of Sinks. tell: told what it waits for.
    """

    def __init__(
        self,
        store: Database,
        account: str,
        *,
        spool: Spool | None,
        sinks: Sequence[str],
        open_sink: Callable[[str], Sink],
        on_wait: Callable[[str], None],
    ) -> None:
        self._account = account
        self._account_data = AccountData(store, account, until=_now())
        self._spool = spool
        self._sinks = sinks
        self._open_sink = open_sink
        self._on_wait = on_wait

    def count_data(self) -> ErasureReport:
        """Count what there is, and change nothing."""
        report = ErasureReport()
        self._visit_spool(report, lambda spool: spool.count_for_account(self._account))
        report.add_counts(asdict(self._account_data.count()))
        self._visit_sinks(report, lambda sink: sink.count(self._account))
        report.in_progress = len(self._account_data.find_in_progress(now=_now()))
        self._report_without_account(report)
        return report

    def erase_data(self) -> ErasureReport:
        """Remove it all; when this returns, no worker writes anything of it any more.

        Pass by pass, until one finds nothing: first what is still to be written, then, once nobody has any
        of it in hand, what was written.
        """
        report = ErasureReport()
        for _ in range(_MAX_PASSES):
            before = report.total
            self._visit_spool(report, lambda spool: spool.erase(self._account))
            report.add_counts(asdict(sum(self._account_data.erase(now=_now()), start=AccountDataCounts())))
            self._wait_for_workers()
            self._visit_sinks(report, lambda sink: sink.erase(self._account))
            if report.total == before:
                break
        else:
            report.unreached["what still comes"] = (
                "more of it was found each time; stop its syncs, and repeat"
            )
        self._report_without_account(report)
        return report

    def _visit_spool(self, report: ErasureReport, action: Callable[[Spool], int]) -> None:
        if self._spool is None:
            report.unreached[SPOOL] = "REDIS_URL is not set: what waits in Redis was not looked at"
            return
        try:
            report.add_counts({SPOOL: action(self._spool)})
            if number := self._spool.count_unreadable():
                report.unreached[SPOOL] = f"{number} unreadable entries may be of any account"
        except QueueUnavailable as error:
            report.unreached[SPOOL] = str(error)

    def _visit_sinks(self, report: ErasureReport, action: Callable[[Sink], int]) -> None:
        for name in self._sinks:
            place = f"sink {name}"
            # Away in one pass, it may be back in the next: only the last one counts.
            report.unreached.pop(place, None)
            try:
                report.add_counts({place: action(self._open_sink(name))})
            except (SinkUnavailable, SinkRefused) as error:
                report.unreached[place] = str(error)

    def _report_without_account(self, report: ErasureReport) -> None:
        if number := self._account_data.count_without_account():
            report.unreached["rows of no account"] = (
                f"{number} deliveries of its runs name no account: sinks have their records under none"
            )

    def _wait_for_workers(self) -> None:
        in_progress = self._account_data.find_in_progress(now=_now())
        if in_progress:
            self._on_wait(
                f"Waiting, 40 s at most, for workers that have {len(in_progress)} of its deliveries in hand."
            )
        while in_progress:
            time.sleep(_POLL_INTERVAL_S)
            in_progress = self._account_data.find_in_progress(now=_now(), among=in_progress)


@contextmanager
def open_erasure(config: Config, account: str, *, on_wait: Callable[[str], None]) -> Iterator[Erasure]:
    """Open the store, Redis and every sink of a configuration for an erasure.

    on_wait: called with a line of text before the erasure waits for workers.
    """
    settings = config.settings
    spool = (
        Spool(connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify))
        if settings.redis_url
        else None
    )
    sinks = SinkRegistry(config.routes)
    database = open_database(settings.database_url, interactive=True)
    try:
        yield Erasure(
            database,
            account,
            spool=spool,
            sinks=sorted(config.routes.sinks),
            open_sink=sinks.open,
            on_wait=on_wait,
        )
    finally:
        sinks.close()
        database.close()


def _now() -> datetime:
    return datetime.now(UTC)
