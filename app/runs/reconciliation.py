"""Whether all that Truto fetched in a run is where it belongs, and what became of the rest. Pure."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from app.store.run_totals import Arrived, Figures, InSink
from app.store.runs import KnownRun
from app.truto.coerce import as_object
from app.truto.runs import Stats, read_stats

Pair = tuple[str, str]
_Group = TypeVar("_Group", Arrived, InSink)
Verdict = Literal["open", "settling", "complete", "incomplete", "unknown", "refused"]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why records are not where they belong. records: how many; None where nobody can tell.

    word: given_up (Truto got no 200 for their page), dead, discarded (dead, and an operator gave them up),
    unrouted, late (kept, because they came after a stop), quarantined, stopped, refused, or unexplained.
    """

    word: str
    records: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """One resource and method of a run, in records.

    fetched: what Truto counted; None where it does not say. written, dead: in the sink that has the fewest.
    Those of discarded deliveries are dead. dropped: those that a route sends nowhere.
    missing: fetched, but not arrived. surplus: the opposite. late: arrived after the run had been
    stopped. errors: record errors.
    """

    resource: str
    method: str
    fetched: int | None
    arrived: int
    written: int
    dead: int
    dropped: int
    missing: int
    surplus: int
    late: int
    errors: int
    sinks: Sequence[InSink]
    causes: Sequence[Cause]


@dataclass(frozen=True, slots=True)
class Account:
    """A run, accounted for. record_errors: of all resources together."""

    verdict: Verdict
    lines: Sequence[Line]
    record_errors: int

    @property
    def is_bad_news(self) -> bool:
        """Whether records are not where they belong."""
        return any(line.causes for line in self.lines)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of one resource and method. log: what Truto's log adds up to."""

    pair: Pair
    expected: Stats
    log: Mapping[str, int]
    groups: Sequence[Arrived]
    sinks: Sequence[InSink]
    errors: int


_UNKNOWN = Stats(None, None)


def account_for(run: KnownRun, figures: Figures) -> Account:
    """Compare what Truto says it fetched with what arrived, and that with what the sinks hold."""
    told = _told_stats(run)
    groups, sinks = _by_pair(figures.arrived, told), _by_pair(figures.sinks, told)
    errors = figures.errors or {}
    log = _read_log(run, {*told, *groups})
    expected = _expected(told, log)
    # What Truto fetched nothing of is no news where nothing came of it either.
    fetched = {pair for pair, stats in expected.items() if stats.expected != 0}
    lines = []
    for pair in sorted({*fetched, *groups, *errors}):
        facts = _Facts(
            pair,
            expected.get(pair, _UNKNOWN),
            log.get(pair, {}),
            groups.get(pair, ()),
            sinks.get(pair, ()),
            errors.get(pair, 0),
        )
        lines.append(_line(run, facts))
    pending = any(group.state == "pending" for group in figures.arrived)
    verdict = _verdict(run, lines, is_pending=pending, knows_any=_knows_any(expected))
    return Account(verdict, lines, sum(errors.values()))


def tells_numbers(run: KnownRun) -> bool:
    """Whether the run itself says how much was fetched."""
    return _knows_any(_told_stats(run))


def _told_stats(run: KnownRun) -> Mapping[Pair, Stats]:
    return read_stats(_object(run.run).get("resource_stats"))


def _expected(told: Mapping[Pair, Stats], log: Mapping[Pair, Mapping[str, int]]) -> Mapping[Pair, Stats]:
    """Return what Truto counted: the run's own statistics, else what its log adds up to."""
    from_log = {pair: Stats(counts["fetched"], None) for pair, counts in log.items()}
    return told if _knows_any(told) or not from_log else from_log


def _knows_any(stats: Mapping[Pair, Stats]) -> bool:
    return any(each.expected is not None for each in stats.values())


def _line(run: KnownRun, facts: _Facts) -> Line:
    arrived = sum(group.records for group in facts.groups)
    records: Counter[str] = Counter()
    for group in facts.groups:
        records[group.state if group.is_written or group.state != "settled" else "dropped"] += group.records
    fetched = facts.expected.expected
    # While a run goes on, Truto's count is behind or ahead of what comes.
    difference = fetched - arrived if run.has_ended and fetched is not None else 0
    missing = max(0, difference)
    written = min((sink.written for sink in facts.sinks), default=0)
    discarded = [group for group in facts.groups if group.state == "discarded"]
    no_sinks = sum(group.records for group in discarded if not group.is_written)
    dead = max((sink.dead for sink in facts.sinks), default=0) + no_sinks
    is_settled = not any(group.state == "pending" for group in facts.groups)
    kept = records["unrouted"] + records["late"] + records["dropped"]
    astray = arrived - written - kept - dead if is_settled else 0
    given_up = min(dead, records["discarded"])
    words = {
        "dead": dead - given_up,
        "discarded": given_up,
        "unrouted": records["unrouted"],
        "late": records["late"],
    }
    causes = [Cause(word, number) for word, number in words.items() if number]
    if run.has_ended:
        causes += _causes_of_missing(run, missing, facts)
        causes += [Cause("unexplained", abs(astray))] if astray else []
    return Line(
        *facts.pair,
        fetched=fetched,
        arrived=arrived,
        written=written,
        dead=dead,
        dropped=records["dropped"],
        missing=missing,
        surplus=max(0, -difference),
        late=sum(group.late for group in facts.groups),
        errors=facts.errors,
        sinks=facts.sinks,
        causes=causes,
    )


def _causes_of_missing(run: KnownRun, missing: int, facts: _Facts) -> Iterator[Cause]:
    uncounted = {group.state for group in facts.groups if not group.records}
    if uncounted & {"quarantined", "dead", "discarded"}:
        # Nobody counted its records: it could not be read, or took its workers along.
        yield Cause("quarantined" if uncounted & {"quarantined", "dead"} else "discarded", missing or None)
        return
    given_up = min(missing, facts.log.get("given_up", 0) or facts.expected.undelivered)
    if given_up:
        yield Cause("given_up", given_up)
    if missing > given_up:
        word = run.status if run.status in ("stopped", "refused") else "unexplained"
        yield Cause(word, missing - given_up)


def _verdict(run: KnownRun, lines: Sequence[Line], *, is_pending: bool, knows_any: bool) -> Verdict:
    if run.status == "refused" and not lines:
        return "refused"
    if not run.has_ended:
        return "open"
    if is_pending:
        return "settling"
    if any(line.missing or not _are_dead(cause) for line in lines for cause in line.causes):
        return "incomplete"
    # A resource of which only errors came need not be among what was fetched.
    knows_all = all(line.fetched is not None for line in lines if line.arrived or not line.errors)
    return "complete" if knows_all and knows_any else "unknown"


def _are_dead(cause: Cause) -> bool:
    return cause.word in ("dead", "discarded") and cause.records is not None


def _by_pair(groups: Sequence[_Group], known: Iterable[Pair]) -> dict[Pair, list[_Group]]:
    methods = _methods(known)
    found: dict[Pair, list[_Group]] = {}
    for group in groups:
        method = _method(group.method, methods.get(group.resource, set()))
        found.setdefault((group.resource, method), []).append(group)
    return found


def _methods(known: Iterable[Pair]) -> dict[str, set[str]]:
    methods: dict[str, set[str]] = {}
    for resource, method in known:
        methods.setdefault(resource, set()).add(method)
    return methods


def _method(named: str, known: set[str]) -> str:
    """Return a method, also where it is left out: that of a resource with one method is plain."""
    return next(iter(known)) if not named and len(known) == 1 else named


def _read_log(run: KnownRun, known: Iterable[Pair]) -> Mapping[Pair, Mapping[str, int]]:
    methods = _methods(known)
    return {
        (resource, _method(method, methods.get(resource, set()))): counts
        for resource, lines in _object(run.log).items()
        for method, counts in lines.items()
    }


def _object(text: str | None) -> dict[str, dict[str, dict[str, int]]]:
    return as_object(json.loads(text)) if text else {}
