"""rapidbridge routes explain."""

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, BinaryIO

import click

from app.checks.route_preview import RecordPreview, preview_records
from app.cli.common.options import json_option
from app.cli.common.output import print_json, replace_control_chars
from app.clock import utc_now
from app.config.load import Config, read_config
from app.config.routes import Route
from app.config.sinks import SqlSinkConfig
from app.runs.route_match import RouteMatch, match_route
from app.sinks.sql.tables import table_name
from app.truto.events import RECORD_EVENT
from app.truto.records import RawJson, decode_json, indent_json, to_json

_MAX_SAMPLE_BYTES = 10_000_000
_LABEL_WIDTH, _WIDTH = 10, 80


@click.command()
@click.argument("resource")
@click.argument("method", default="list")
@click.option("--event", default=RECORD_EVENT, show_default=True, help="Event of the delivery.")
@click.option("--account", default="", help="Id of the integrated account.")
@click.option("--environment", default="", help="Id of the environment.")
@click.option("--webhook", default="", help="Id of the webhook.")
@click.option(
    "--record", type=click.File("rb"), help="JSON of a record, of a list, or of an event; - for stdin."
)
@json_option
def explain(
    resource: str,
    method: str,
    *,
    event: str,
    account: str,
    environment: str,
    webhook: str,
    record: BinaryIO | None,
    as_json: bool,
) -> None:
    """Show the route of a resource, and what it would write.

    With --record, shows the key, the version, the data and the columns of a sample record. METHOD is list by
    default. The exit code is 1 if no route matches.

    \b
    Examples:
      rapidbridge routes explain crm/contacts
      rapidbridge routes explain crm/contacts get --record contact.json
    """
    config = read_config()
    match = match_route(
        config.routes,
        event=event,
        resource=resource,
        method=method,
        account=account,
        environment=environment,
        webhook=webhook,
    )
    previews = _read_previews(record, match.route) if record and match.route else ()
    if as_json:
        print_json(_as_json(match, resource, previews))
    else:
        for line in _format_match(config, match, resource, method):
            click.echo(line)
        for preview in previews:
            for line in _format_preview(preview):
                click.echo(line)
    if match.route is None:
        sys.exit(1)


def _read_previews(record: BinaryIO, route: Route) -> Sequence[RecordPreview]:
    sample = record.read(_MAX_SAMPLE_BYTES + 1)
    if len(sample) > _MAX_SAMPLE_BYTES:
        message = f"the sample is larger than {_MAX_SAMPLE_BYTES:,} bytes; use a few records of it."
        raise click.BadParameter(message, param_hint="--record")
    previews = preview_records(sample, route, received_at=utc_now())
    if previews is None:
        message = "the sample is no JSON; give a record, a list of records, or a whole event."
        raise click.BadParameter(message, param_hint="--record")
    return previews


def _as_json(match: RouteMatch, resource: str, previews: Sequence[RecordPreview]) -> dict[str, Any]:
    route = match.route
    shown = {"route": match.position, "has_records": match.has_records}
    if route is None:
        return shown
    keys = route.model_dump(mode="json")
    records = [_preview_as_json(preview) for preview in previews]
    return shown | {"table": table_name(resource, route), "keys": keys, "records": records}


def _preview_as_json(preview: RecordPreview) -> dict[str, Any]:
    columns = {
        name: json.loads(to_json(value)) if isinstance(value, RawJson) else value
        for name, value in preview.columns.items()
    }
    return asdict(preview) | {"json": json.loads(preview.json or "null"), "columns": columns}


def _format_match(config: Config, match: RouteMatch, resource: str, method: str) -> Iterator[str]:
    yield replace_control_chars(f"{resource} {method}")
    if match.route is None or match.position is None:
        if match.has_records:
            yield "  No route matches: such deliveries are kept as unrouted. Add a route for them."
        else:
            yield "  No route matches. The event carries no records, so nothing is missing."
        return
    for label, text in _describe_route(config, match.route, match.position, resource):
        yield from _format_lines(label, text)


def _describe_route(config: Config, route: Route, number: int, resource: str) -> Iterator[tuple[str, str]]:
    place = config.find_route_place(number)
    total = len(config.routes.routes)
    yield "route", f"{number} of {total}" + (f", {place}" if place else ", the default without a routes file")
    sinks = {name: config.routes.sinks[name] for name in route.sinks}
    shown = ", ".join(f"{name} ({sink.type})" for name, sink in sinks.items())
    yield "sinks", shown or "none: deliveries are kept in the inbox and written nowhere"
    if not sinks:
        return
    if any(isinstance(sink, SqlSinkConfig) for sink in sinks.values()):
        yield "table", table_name(resource, route)
    missing = "is rejected" if route.on_missing_key == "reject" else "gets a hash of itself"
    yield "key", f"{route.key}; a record without it {missing}" if route.key else "a hash of the record"
    yield (
        "version",
        f"{route.version_field} of the record" if route.version_field else "the time of the event",
    )
    for name in ("filter", "transform"):
        if expression := getattr(route, name):
            yield name, expression
    for name in ("only", "drop"):
        if paths := getattr(route, name):
            yield name, ", ".join(paths)
    for name, column in route.columns.items():
        path = f" of {column.path}" if column.path and column.path != name else ""
        yield "column", f"{name}: {column.type}{path}"


def _format_preview(preview: RecordPreview) -> Iterator[str]:
    yield f"record {preview.ordinal + 1}: {preview.result}"
    if preview.message:
        yield from _format_lines("reason", preview.message)
    if preview.result != "written":
        return
    yield from _format_lines("key", preview.key)
    if preview.version:
        yield from _format_lines("version", preview.version.isoformat())
    for name, value in preview.columns.items():
        misfit = f" ({preview.misfits[name]})" if name in preview.misfits else ""
        shown = value if isinstance(value, str) else "NULL" if value is None else to_json(value)
        yield from _format_lines("column", f"{name} = {shown}{misfit}")
    if "_version" in preview.misfits:
        yield from _format_lines("version", "the record has no usable time: the time of the event is used")
    yield from _format_lines("data", "")
    for line in indent_json(decode_json(preview.json)).splitlines():
        yield f"    {replace_control_chars(line)}"


def _format_lines(label: str, text: str) -> Iterator[str]:
    indent = " " * (2 + _LABEL_WIDTH)
    lines = textwrap.wrap(replace_control_chars(text), _WIDTH - len(indent), break_on_hyphens=False) or [""]
    yield f"  {label:{_LABEL_WIDTH}}{lines[0]}".rstrip()
    yield from (indent + line for line in lines[1:])
