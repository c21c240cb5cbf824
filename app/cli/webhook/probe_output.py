"""Report of a probe, as text and as JSON."""

import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from app.cli.common.messages import LINE_WIDTH, format_message
from app.config.version import VERSION
from app.plural import format_count
from app.webhook_probe.body_shape import Place, Shape
from app.webhook_probe.webhook_probe import EventResult, ProbeReport

_FORMAT = "rapidbridge.webhook-probe/1"
_INDENT = " " * 4
# A longer path has its types on the next line.
_MAX_FIRST_COLUMN = 42
_RESULTS: Mapping[EventResult, str] = {
    "arrived": "Arrived",
    "refused": "Refused by Truto",
    "failed": "Failed at Truto",
    "missing": "Sent, but not arrived",
    "not sent": "Not sent",
}


def report_as_json(report: ProbeReport) -> dict[str, Any]:
    """Return a report as JSON, without any value of an event and without ids."""
    return {
        "format": _FORMAT,
        "release": VERSION,
        "is_complete": report.is_complete,
        "events": report.results,
        "answers": report.answers,
        "unreadable": report.unreadable,
        "shapes": {
            event: {path: _place_as_json(place) for path, place in shape.items()}
            for event, shape in sorted(report.shapes.items())
        },
    }


def report_lines(report: ProbeReport) -> Iterator[str]:
    """Yield a report as lines for a terminal of 80 columns."""
    by_result: dict[EventResult, list[str]] = defaultdict(list)
    for event, result in report.results.items():
        by_result[result].append(event)
    for result, title in _RESULTS.items():
        if events := by_result[result]:
            yield format_message(f"{title} ({len(events)}): {', '.join(events)}")
    for reason, number in report.unreadable.items():
        yield f"{format_count(number, 'delivery')} without an event: {reason}"
    yield ""
    yield from _align_rows(report.answers.items())
    for events, shape in _group_shapes(report.shapes):
        yield ""
        yield from click.style(format_message(", ".join(events)), bold=True).splitlines()
        yield from _align_rows((path, _describe_place(place)) for path, place in shape.items())


def _group_shapes(shapes: Mapping[str, Shape]) -> Iterator[tuple[list[str], Shape]]:
    """Yield every shape once, with the events that have it: those of a run mostly share one."""
    events_by_shape: dict[str, list[str]] = defaultdict(list)
    for event, shape in sorted(shapes.items()):
        lines = sorted(f"{path} {_describe_place(place)}" for path, place in shape.items())
        events_by_shape["\n".join(lines)].append(event)
    yield from ((events, shapes[events[0]]) for events in events_by_shape.values())


def _align_rows(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield two columns, the second one wrapped."""
    rows = list(rows)
    width = min(_MAX_FIRST_COLUMN, max((len(first) for first, _ in rows), default=0))
    for first, second in rows:
        indent = " " * (width + len(_INDENT) + 2)
        lines = textwrap.wrap(second, LINE_WIDTH - len(indent), break_on_hyphens=False) or [""]
        if len(first) > width:
            yield _INDENT + first
            yield indent + lines[0]
        else:
            yield f"{_INDENT}{first:{width}}  {lines[0]}"
        yield from (indent + line for line in lines[1:])


def _describe_place(place: Place) -> str:
    types = ", ".join(sorted(place.types))
    return f"{types}; {format_count(place.other_names, 'name')}" if place.other_names else types


def _place_as_json(place: Place) -> dict[str, Any]:
    other_names = {"other_names": place.other_names} if place.other_names else {}
    return {"types": sorted(place.types), **other_names}
