"""Erasure of an integrated account from Redis, the store and every sink."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from app.clock import utc_now
from app.config.load import Config
from app.database.engine import Database
from app.errors import QueueUnavailable, SinkUnavailable
from app.plural import format_count
from app.redis.connection import connect_redis
from app.redis.queue import UNNAMED
from app.redis.spool import Spool
from app.sinks.base import AnySink
from app.sinks.registry import SinkRegistry
from app.store.erasure import AccountData, AccountDataCounts
from app.store.store_database import open_store

SPOOL = "spool"
# A delivery on its way from Redis to the inbox, or from the inbox to a sink, escapes the first pass.
_MAX_PASSES = 4
_POLL_INTERVAL_S = 0.5


@dataclass(slots=True)
class ErasureReport:
    """The result of one count or erasure.

    counts: rows, files and entries by place. unreached: the reason by place that was not erased or counted.
    in_progress: deliveries that workers may still write.
    """

    counts: dict[str, int] = field(default_factory=dict)
    unreached: dict[str, str] = field(default_factory=dict)
    in_progress: int = 0

    @property
    def total(self) -> int:
        """The sum over all places."""
        return sum(self.counts.values())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to erase, nothing in progress and no place that could not be checked."""
        return not (self.total or self.in_progress or self.unreached)

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Add counts by place."""
        for place, number in counts.items():
            self.counts[place] = self.counts.get(place, 0) + number


class Erasure:
    """All data of one account that arrived before this object was created.

    Methods raise StoreUnavailable; other failures are in the report. spools: none if Redis is not configured.
    on_wait: receives a line of text when erasing starts to wait for workers.
    """

    def __init__(
        self,
        database: Database,
        account: str,
        *,
        spools: Sequence[Spool],
        sinks: SinkRegistry,
        on_wait: Callable[[str], None],
    ) -> None:
        self._account = account
        self._account_data = AccountData(database, account, until=utc_now())
        self._spools = spools
        self._sinks = sinks
        self._on_wait = on_wait

    def count_data(self) -> ErasureReport:
        """Count the account's data without changing it."""
        report = ErasureReport()
        self._visit_spool(report, lambda spool: spool.count_for_account(self._account))
        report.add_counts(asdict(self._account_data.count()))
        self._visit_sinks(report, lambda sink: sink.count(self._account))
        report.in_progress = len(self._account_data.find_in_progress(now=utc_now()))
        self._report_without_account(report)
        return report

    def erase_data(self) -> ErasureReport:
        """Erase the account's data; afterwards no worker writes any of it.

        Passes repeat until one erases nothing. A pass erases pending data first, waits until no worker has
        the account in progress, then erases the sinks.
        """
        report = ErasureReport()
        for _ in range(_MAX_PASSES):
            total_before = report.total
            self._visit_spool(report, lambda spool: spool.erase(self._account))
            report.add_counts(asdict(sum(self._account_data.erase(now=utc_now()), start=AccountDataCounts())))
            self._wait_for_workers()
            self._visit_sinks(report, lambda sink: sink.erase(self._account))
            if report.total == total_before:
                break
        else:
            report.unreached["new deliveries"] = (
                f"every one of {_MAX_PASSES} passes erased more: stop the account's sync jobs and repeat"
            )
        self._report_without_account(report)
        return report

    def _visit_spool(self, report: ErasureReport, action: Callable[[Spool], int]) -> None:
        if not self._spools:
            report.unreached[SPOOL] = (
                "REDIS_URL is not set, and no `rapidbridge up` runs in this folder: the spool in Redis was "
                "not searched. Set REDIS_URL, or start `rapidbridge up`, and run the command again"
            )
            return
        try:
            for spool in self._spools:
                report.add_counts({SPOOL: action(spool)})
                if number := spool.count_unreadable():
                    entries = format_count(number, "unreadable entry")
                    report.unreached[SPOOL] = (
                        f"{entries} may belong to any account; "
                        f"inspect with: redis-cli XRANGE {spool.unreadable_key} - +"
                    )
        except QueueUnavailable as error:
            report.unreached[SPOOL] = str(error)

    def _visit_sinks(self, report: ErasureReport, action: Callable[[AnySink], int]) -> None:
        for name in self._sinks.names:
            place = f"sink {name}"
            # A sink may be unavailable in one pass and back in the next: only its last pass counts.
            report.unreached.pop(place, None)
            try:
                report.add_counts({place: action(self._sinks.open_any(name))})
            except SinkUnavailable as error:
                report.unreached[place] = str(error)

    def _report_without_account(self, report: ErasureReport) -> None:
        if number := self._account_data.count_without_account():
            deliveries = format_count(number, "delivery")
            report.unreached["rows without an account"] = (
                f"{deliveries} of the account's runs name no account; "
                "delete their records from the sinks by the ids of these runs"
            )

    def _wait_for_workers(self) -> None:
        in_progress = self._account_data.find_in_progress(now=utc_now())
        if in_progress:
            deliveries = format_count(len(in_progress), "delivery")
            self._on_wait(
                "Waiting for workers that are processing "
                f"{deliveries} of the account: up to 40 s, or 6 minutes for a load of a warehouse."
            )
        while in_progress:
            time.sleep(_POLL_INTERVAL_S)
            in_progress = self._account_data.find_in_progress(now=utc_now(), among=in_progress)


@contextmanager
def open_erasure(config: Config, account: str, *, on_wait: Callable[[str], None]) -> Iterator[Erasure]:
    """Open the store, Redis and every sink of a configuration for an erasure.

    on_wait: called with a line of text before the erasure waits for workers.
    """
    settings = config.settings
    spools = []
    if settings.redis_url:
        redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
        spools = [Spool(redis, namespace, settings) for namespace in (settings.namespace, UNNAMED)]
    sinks = SinkRegistry(config.routes)
    database = open_store(settings, interactive=True)
    try:
        yield Erasure(
            database,
            account,
            spools=spools,
            sinks=sinks,
            on_wait=on_wait,
        )
    finally:
        sinks.close()
        database.close()
