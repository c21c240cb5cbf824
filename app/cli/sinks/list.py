"""rapidbridge sinks list."""

import sys
from dataclasses import asdict
from datetime import datetime

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import format_message
from app.cli.common.options import json_option
from app.cli.common.output import format_time, print_json, replace_control_chars
from app.cli.common.tables import format_table
from app.clock import utc_now
from app.config.load import read_config
from app.config.routes import Routes
from app.store.sink_status import SinkStatus, list_sink_statuses
from app.times import format_duration

_HEADERS = ("sink", "type", "state", "held", "oldest", "last write (UTC)")


@click.command(name="list")
@json_option
def list_sinks(*, as_json: bool) -> None:
    """List sinks with state, held deliveries and last write.

    The exit code is 1 if a sink is paused or fails. `oldest` is the age of the oldest delivery that the sink
    has not accepted yet. 10,000+ stands for any larger number.

    \b
    Example:
      rapidbridge sinks list --json
    """
    config = read_config()
    database, now = open_interactive_database(config.settings), utc_now()
    known = config.routes.sinks
    statuses = [status for status in list_sink_statuses(database, known) if status.sink in known]
    if as_json:
        print_json([_as_json(status, config.routes, now) for status in statuses])
    else:
        for line in format_table(_HEADERS, [_build_row(status, config.routes, now) for status in statuses]):
            click.echo(line)
        for status in statuses:
            for remark in _list_remarks(status, now):
                click.echo(format_message(f"{status.sink}: {replace_control_chars(remark)}"))
    if any(status.state in ("paused", "failing") for status in statuses):
        sys.exit(1)


def _build_row(status: SinkStatus, routes: Routes, now: datetime) -> tuple[str, ...]:
    lag_s = status.lag_s(now)
    return (
        status.sink,
        routes.sinks[status.sink].type,
        status.state,
        str(status.held),
        "-" if lag_s is None else format_duration(lag_s),
        format_time(status.last_write_at),
    )


def _list_remarks(status: SinkStatus, now: datetime) -> list[str]:
    remarks = []
    if status.load_since:
        age = format_duration((now - status.load_since).total_seconds())
        remarks.append(f"{status.loading.format('delivery')} waiting for a load, the oldest for {age}")
    if status.paused_at:
        by = f" by {status.paused_by}" if status.paused_by else ""
        reason = f" ({status.pause_reason})" if status.pause_reason else ""
        since = format_time(status.paused_at)
        remarks.append(
            f"paused at {since} UTC{by}{reason}; to continue: rapidbridge sinks resume {status.sink}"
        )
    if status.failing_since:
        cause = f"{status.reason}: {status.message}" if status.message else status.reason
        remarks.append(f"failing since {format_time(status.failing_since)} UTC, {cause}")
    if status.slow:
        remarks.append(f"slow: {status.slow}, so half of the workers write to other sinks only")
    return remarks


def _as_json(status: SinkStatus, routes: Routes, now: datetime) -> dict[str, object]:
    shown = {"sink": status.sink, "type": routes.sinks[status.sink].type, "state": status.state}
    return shown | {"lag_s": status.lag_s(now)} | asdict(status)
