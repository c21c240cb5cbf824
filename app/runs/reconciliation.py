"""Reconciliation: fetched, arrived and written records of a run; pure."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from app.runs.unsent_events import UnsentEvent, find_unsent_events
from app.store.reasons import SET_UP_REASONS, Reason
from app.store.run_totals import BatchTotals, RecordsWithoutRun, RunTotals, SinkTotals
from app.store.runs import StoredRun
from app.truto.coerce import as_object
from app.truto.runs import RecordCounts, read_resource_stats

ResourceMethod = tuple[str, str]
_UNEXPLAINED, WITHOUT_RUN, _UNATTRIBUTED, _HELD = "unexplained", "without_run", "unattributed", "held"
# Their records are in another batch, or will be written.
NO_GAPS = (WITHOUT_RUN, _HELD)
# Of pending deliveries that wait for a sink.
_HELD_REASONS = (
    Reason.SINK_PAUSED,
    Reason.SINK_SLOW,
    Reason.SINK_UNAVAILABLE,
    Reason.SINK_RESUMED,
    *SET_UP_REASONS,
)
_Group = TypeVar("_Group", BatchTotals, SinkTotals)
Verdict = Literal["open", "settling", "complete", "incomplete", "unknown", "refused", "not_sent"]
# A page may arrive after the end of its run: Truto sends lifecycle events through a queue of their own, and
# retries a page up to three times.
MAX_TRANSIT = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class GapReason:
    """The reason why records are missing from a sink.

    records: None if the number is unknown. code: given_up (Truto got no 200 for their page), dead, discarded
    (dead, then given up by an operator), unrouted, late (not written, because they arrived after a stop),
    no_account (not written, because their account is unknown), quarantined, stopped, refused, not_sent (the
    run sends no records), without_run (as many records arrived in batches that name no run), unattributed
    (the same, in batches that name no account either and are not written), held (a sink is paused or fails,
    and gets them afterwards), or unexplained.
    """

    code: str
    records: int | None


@dataclass(frozen=True, slots=True)
class ResourceCounts:
    """The records of one resource and method of a run.

    fetched: Truto's count; None if it is unknown. written: in the sink that wrote the fewest. dead: in the
    sink with the most, including records of discarded deliveries. dropped: matched by a route without sinks.
    missing: fetched, but not arrived. in_flight: not arrived yet, so possibly on their way. surplus: arrived,
    but not fetched. late: arrived after the run was stopped. errors: record errors.
    """

    resource: str
    method: str
    fetched: int | None
    arrived: int
    written: int
    dead: int
    dropped: int
    missing: int
    in_flight: int
    surplus: int
    late: int
    errors: int
    sinks: Sequence[SinkTotals]
    gap_reasons: Sequence[GapReason]


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The comparison of a whole run.

    record_errors: the sum over all resources. unsent_events: events that the run does not send.
    """

    verdict: Verdict
    resources: Sequence[ResourceCounts]
    record_errors: int
    unsent_events: Sequence[UnsentEvent] = ()

    @property
    def has_gaps(self) -> bool:
        """Whether any record is missing from a sink."""
        return any(gap.code not in NO_GAPS for counts in self.resources for gap in counts.gap_reasons)

    @property
    def has_unexplained_gaps(self) -> bool:
        """Whether records are missing without a known reason."""
        return any(gap.code == _UNEXPLAINED for counts in self.resources for gap in counts.gap_reasons)


@dataclass(frozen=True, slots=True)
class _ResourceFacts:
    """The inputs for one resource and method.

    log: the totals of Truto's log. is_sent: False if the run sends no records.
    """

    pair: ResourceMethod
    expected: RecordCounts
    log: Mapping[str, int]
    groups: Sequence[BatchTotals]
    sinks: Sequence[SinkTotals]
    errors: int
    is_sent: bool

    @property
    def is_uncounted(self) -> bool:
        """Whether a delivery arrived whose records are in no count."""
        return any(
            not group.records and group.state in ("quarantined", "dead", "discarded") for group in self.groups
        )


_UNKNOWN = RecordCounts(None, None)


def reconcile_counts(run: StoredRun, totals: RunTotals, *, now: datetime | None = None) -> Reconciliation:
    """Compare the records that Truto fetched, that arrived and that the sinks wrote.

    now: records of a run that was seen recently may still be in flight; None for a run without such records.
    """
    last_seen_at = run.last_seen_at or run.first_seen_at
    is_quiet = now is None or bool(run.reconciled_at) or now - last_seen_at > MAX_TRANSIT
    unsent_events = _list_unsent_events(run, totals, is_quiet=is_quiet)
    truto_stats = _read_truto_stats(run)
    groups, sinks = (
        _group_by_resource(totals.batches, truto_stats),
        _group_by_resource(totals.sinks, truto_stats),
    )
    errors = totals.errors or {}
    log = _read_log(run, {*truto_stats, *groups})
    expected = _choose_expected_stats(truto_stats, log)
    # A resource of which nothing was fetched appears only if records arrived.
    fetched = {pair for pair, stats in expected.items() if stats.expected != 0}
    resources = []
    for pair in sorted({*fetched, *groups, *errors}):
        facts = _ResourceFacts(
            pair,
            expected.get(pair, _UNKNOWN),
            log.get(pair, {}),
            groups.get(pair, ()),
            sinks.get(pair, ()),
            errors.get(pair, 0),
            is_sent="records" not in unsent_events,
        )
        resources.append(_count_resource(run, facts, is_quiet=is_quiet))
    pending = any(group.state == "pending" for group in totals.batches)
    verdict = _decide_verdict(run, resources, is_pending=pending, has_counts=_has_counts(expected))
    if verdict == "open" and is_quiet and not pending and "end" in unsent_events:
        verdict = "not_sent"
    return Reconciliation(verdict, resources, sum(errors.values()), unsent_events)


def _list_unsent_events(run: StoredRun, totals: RunTotals, *, is_quiet: bool) -> Sequence[UnsentEvent]:
    """Return the events that a run does not send; received ones are left out."""
    # The lifecycle events of a run that was first seen a moment ago may still arrive.
    unsent_events = find_unsent_events(run) if run.status or is_quiet else ()
    received = {"records" if totals.batches else "", "record_errors" if totals.errors else ""}
    return [event for event in unsent_events if event not in received]


def explain_by_batches_without_run(
    reconciliation: Reconciliation, records: RecordsWithoutRun
) -> Reconciliation:
    """Explain missing records by batches that name no run.

    records: in such batches that arrived during the run. The verdict is unknown if batches of its account may
    hold everything that is missing; records of unattributed batches are in no sink.
    """
    left = {WITHOUT_RUN: Counter(records.attributed), _UNATTRIBUTED: Counter(records.unattributed)}
    resources = list[ResourceCounts]()
    for counts in reconciliation.resources:
        gaps, missing = list[GapReason](), counts.missing
        for gap in counts.gap_reasons:
            if gap.code != _UNEXPLAINED or gap.records is None:
                gaps.append(gap)
                continue
            rest = gap.records
            for code, arrived in left.items():
                number = min(rest, missing, arrived[counts.resource])
                arrived[counts.resource] -= number
                rest, missing = rest - number, missing - number
                gaps += [GapReason(code, number)] if number else []
            gaps += [GapReason(_UNEXPLAINED, rest)] if rest else []
        resources.append(replace(counts, gap_reasons=gaps))
    is_explained = all(
        gap.code == WITHOUT_RUN or _is_dead(gap) for counts in resources for gap in counts.gap_reasons
    )
    is_unknown = reconciliation.verdict == "incomplete" and is_explained
    return replace(
        reconciliation, resources=resources, verdict="unknown" if is_unknown else reconciliation.verdict
    )


def has_truto_counts(run: StoredRun) -> bool:
    """Whether the run's own statistics count fetched records."""
    return _has_counts(_read_truto_stats(run))


def _read_truto_stats(run: StoredRun) -> Mapping[ResourceMethod, RecordCounts]:
    return read_resource_stats(_parse_json_object(run.run).get("resource_stats"))


def _choose_expected_stats(
    truto_stats: Mapping[ResourceMethod, RecordCounts], log: Mapping[ResourceMethod, Mapping[str, int]]
) -> Mapping[ResourceMethod, RecordCounts]:
    """Return the run's own statistics, or the totals of its log if they count nothing."""
    from_log = {pair: RecordCounts(counts["fetched"], None) for pair, counts in log.items()}
    return truto_stats if _has_counts(truto_stats) or not from_log else from_log


def _has_counts(stats: Mapping[ResourceMethod, RecordCounts]) -> bool:
    return any(counts.expected is not None for counts in stats.values())


def _count_resource(run: StoredRun, facts: _ResourceFacts, *, is_quiet: bool) -> ResourceCounts:
    arrived = sum(group.records for group in facts.groups)
    records: Counter[str] = Counter()
    for group in facts.groups:
        state = group.state if group.is_written or group.state != "settled" else "dropped"
        records[state] += group.records - group.written
    fetched = facts.expected.expected
    # While a run is open, Truto's count differs from the arrived records.
    difference = fetched - arrived if run.has_ended and fetched is not None else 0
    # A page that Truto's log gives up, or that arrived unreadable, is not in flight.
    not_arrived, given_up_pages = max(0, difference), facts.log.get("given_up", 0)
    in_flight = 0 if is_quiet or facts.is_uncounted else max(0, not_arrived - given_up_pages)
    missing = not_arrived - in_flight
    written = min((sink.written for sink in facts.sinks), default=0)
    unwritten_groups = [group for group in facts.groups if not group.is_written]
    no_sinks = sum(group.records for group in unwritten_groups if group.state in ("dead", "discarded"))
    dead = max((sink.dead for sink in facts.sinks), default=0) + no_sinks
    is_settled = not any(group.state == "pending" for group in facts.groups)
    # Equal in all sinks: the filter is the route's.
    records["dropped"] += max((sink.filtered for sink in facts.sinks), default=0)
    unwritten = sum(records[state] for state in ("unrouted", "late", "quarantined", "dropped"))
    unexplained = arrived - written - unwritten - dead if is_settled else 0
    given_up = min(dead, records["discarded"])
    counts_by_code = {
        "dead": dead - given_up,
        "discarded": given_up,
        "unrouted": records["unrouted"],
        "late": records["late"],
        "no_account": records["quarantined"],
        _HELD: sum(
            group.records
            for group in facts.groups
            if group.state == "pending" and group.reason in _HELD_REASONS
        ),
    }
    gap_reasons = [GapReason(code, number) for code, number in counts_by_code.items() if number]
    if run.has_ended:
        gap_reasons += _find_missing_reasons(run, missing, facts)
        gap_reasons += [GapReason(_UNEXPLAINED, abs(unexplained))] if unexplained else []
    return ResourceCounts(
        *facts.pair,
        fetched=fetched,
        arrived=arrived,
        written=written,
        dead=dead,
        dropped=records["dropped"],
        missing=missing,
        in_flight=in_flight,
        surplus=max(0, -difference),
        late=sum(group.late for group in facts.groups),
        errors=facts.errors,
        sinks=facts.sinks,
        gap_reasons=gap_reasons,
    )


def _find_missing_reasons(run: StoredRun, missing: int, facts: _ResourceFacts) -> Iterator[GapReason]:
    if facts.is_uncounted:
        uncounted = {group.state for group in facts.groups if not group.records}
        # No record of the delivery was counted: its body is unreadable, or it killed its workers.
        yield GapReason(
            "quarantined" if uncounted & {"quarantined", "dead"} else "discarded", missing or None
        )
        return
    given_up = min(missing, facts.log.get("given_up", 0) or facts.expected.undelivered)
    if given_up:
        yield GapReason("given_up", given_up)
    if missing > given_up:
        code = run.status if run.status in ("stopped", "refused") else _UNEXPLAINED
        yield GapReason(code if facts.is_sent else "not_sent", missing - given_up)


def _decide_verdict(
    run: StoredRun, resources: Sequence[ResourceCounts], *, is_pending: bool, has_counts: bool
) -> Verdict:
    if run.status == "refused" and not resources:
        return "refused"
    if not run.has_ended:
        return "open"
    if is_pending or any(counts.in_flight for counts in resources):
        return "settling"
    if any(counts.missing or not _is_dead(reason) for counts in resources for reason in counts.gap_reasons):
        return "incomplete"
    # A resource with record errors alone need not have a fetched count.
    knows_all = all(counts.fetched is not None for counts in resources if counts.arrived or not counts.errors)
    return "complete" if knows_all and has_counts else "unknown"


def _is_dead(reason: GapReason) -> bool:
    return reason.code in ("dead", "discarded") and reason.records is not None


def _group_by_resource(
    groups: Sequence[_Group], pairs: Iterable[ResourceMethod]
) -> dict[ResourceMethod, list[_Group]]:
    methods = _collect_methods(pairs)
    grouped: dict[ResourceMethod, list[_Group]] = {}
    for group in groups:
        method = _resolve_method(group.method, methods.get(group.resource, set()))
        grouped.setdefault((group.resource, method), []).append(group)
    return grouped


def _collect_methods(pairs: Iterable[ResourceMethod]) -> dict[str, set[str]]:
    methods: dict[str, set[str]] = {}
    for resource, method in pairs:
        methods.setdefault(resource, set()).add(method)
    return methods


def _resolve_method(method: str, methods: set[str]) -> str:
    """Return a method; if it is empty, the only method of its resource."""
    return next(iter(methods)) if not method and len(methods) == 1 else method


def _read_log(run: StoredRun, pairs: Iterable[ResourceMethod]) -> Mapping[ResourceMethod, Mapping[str, int]]:
    methods = _collect_methods(pairs)
    return {
        (resource, _resolve_method(method, methods.get(resource, set()))): counts
        for resource, lines in _parse_json_object(run.log_totals).items()
        for method, counts in lines.items()
    }


def _parse_json_object(text: str | None) -> dict[str, dict[str, dict[str, int]]]:
    return as_object(json.loads(text)) if text else {}
