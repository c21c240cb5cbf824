"""Removes all there is of an integrated account: in Redis, in the store, and in every sink."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from app.database.engine import Store
from app.errors import QueueUnavailable, SinkRefused, SinkUnavailable
from app.redis.spool import Spool
from app.sinks.base import Sink
from app.store.erasure import AccountInStore, Traces

SPOOL = "spool"
# Something may have been under way, from Redis into the inbox or from there into a sink, in the first.
_MOST_PASSES = 4
_LOOK_EVERY_S = 0.5


@dataclass(slots=True)
class Findings:
    """Numbers by place, and why places were not reached. in_hand: deliveries that workers may write yet."""

    numbers: dict[str, int] = field(default_factory=dict)
    unreached: dict[str, str] = field(default_factory=dict)
    in_hand: int = 0

    @property
    def total(self) -> int:
        """How much it is in all places."""
        return sum(self.numbers.values())

    def add(self, numbers: Mapping[str, int]) -> None:
        """Add what was found in places."""
        for place, number in numbers.items():
            self.numbers[place] = self.numbers.get(place, 0) + number


class Erasure:
    """Of one account, all that came until it was made. Raises StoreUnavailable; all else is told.

    spool: None where it cannot be reached at all. open_sink: as of Sinks. tell: told what it waits for.
    """

    def __init__(
        self,
        store: Store,
        account: str,
        *,
        spool: Spool | None,
        sinks: Sequence[str],
        open_sink: Callable[[str], Sink],
        tell: Callable[[str], None],
    ) -> None:
        self._account = account
        self._held = AccountInStore(store, account, until=_now())
        self._spool = spool
        self._sinks = sinks
        self._open_sink = open_sink
        self._tell = tell

    def find(self) -> Findings:
        """Count what there is, and change nothing."""
        findings = Findings()
        self._in_spool(findings, lambda spool: spool.count_of(self._account))
        findings.add(asdict(self._held.count()))
        self._in_sinks(findings, lambda sink: sink.count(self._account))
        findings.in_hand = len(self._held.in_hand(now=_now()))
        self._note_nameless(findings)
        return findings

    def erase(self) -> Findings:
        """Remove it all; when this returns, no worker writes anything of it any more.

        Pass by pass, until one finds nothing: first what is still to be written, then, once nobody has any
        of it in hand, what was written.
        """
        findings = Findings()
        for _ in range(_MOST_PASSES):
            before = findings.total
            self._in_spool(findings, lambda spool: spool.erase(self._account))
            findings.add(asdict(sum(self._held.erase(now=_now()), start=Traces())))
            self._wait_for_workers()
            self._in_sinks(findings, lambda sink: sink.erase(self._account))
            if findings.total == before:
                break
        else:
            findings.unreached["what still comes"] = (
                "more of it was found each time; stop its syncs, and repeat"
            )
        self._note_nameless(findings)
        return findings

    def _in_spool(self, findings: Findings, look: Callable[[Spool], int]) -> None:
        if self._spool is None:
            findings.unreached[SPOOL] = "REDIS_URL is not set: what waits in Redis was not looked at"
            return
        try:
            findings.add({SPOOL: look(self._spool)})
            if number := self._spool.count_unreadable():
                findings.unreached[SPOOL] = f"{number} unreadable entries may be of any account"
        except QueueUnavailable as error:
            findings.unreached[SPOOL] = str(error)

    def _in_sinks(self, findings: Findings, look: Callable[[Sink], int]) -> None:
        for name in self._sinks:
            place = f"sink {name}"
            # Away in one pass, it may be back in the next: only the last one counts.
            findings.unreached.pop(place, None)
            try:
                findings.add({place: look(self._open_sink(name))})
            except (SinkUnavailable, SinkRefused) as error:
                findings.unreached[place] = str(error)

    def _note_nameless(self, findings: Findings) -> None:
        if number := self._held.count_nameless():
            findings.unreached["rows of no account"] = (
                f"{number} deliveries of its runs name no account: sinks have their records under none"
            )

    def _wait_for_workers(self) -> None:
        held = self._held.in_hand(now=_now())
        if held:
            self._tell(f"Waiting, 40 s at most, for workers that have {len(held)} of its deliveries in hand.")
        while held:
            time.sleep(_LOOK_EVERY_S)
            held = self._held.in_hand(now=_now(), among=held)


def _now() -> datetime:
    return datetime.now(UTC)
