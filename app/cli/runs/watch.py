"""rapidbridge runs watch."""

import math
import shutil
import sys
import time

import click

from app.cli.common.clients import open_interactive_database, open_optional_truto_api
from app.cli.common.ids import RUN_ID, exit_run_not_found, is_uuid
from app.cli.common.messages import print_message
from app.cli.common.options import json_option
from app.cli.common.output import replace_control_chars, to_json
from app.cli.runs.formatting import format_status, format_verdict, name_verdict, resource_lines, run_as_json
from app.clock import utc_now
from app.config.settings import read_environment, read_settings
from app.runs.reconciliation import Reconciliation
from app.runs.refresh import RunRefresher
from app.runs.watcher import RunWatcher
from app.store.runs import Runs, StoredRun

# Truto sends the first event of a run within seconds.
_FIRST_EVENT_TIMEOUT_S = 10.0
_COUNTS = ("fetched", "arrived", "written", "dead", "missing", "errors")


def _require_number(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if math.isnan(value):
        raise click.BadParameter("not a number.")
    return value


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[ID]...", type=RUN_ID)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    callback=_require_number,
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two updates.",
)
@json_option
def watch(run_ids: tuple[str, ...], interval_s: float, *, as_json: bool) -> None:
    """Show the progress of runs until they end.

    The counts are records fetched by Truto, received here and written to sinks. Without an ID, all runs in
    progress are shown. With TRUTO_API_TOKEN, Truto is asked for its count. ID may be shortened to its first
    characters. A run that was just started is awaited for 10 s.

    Exits 1 if records are missing or were not written to a sink, or if there is no run with an ID.

    \b
    Example:
      rapidbridge runs watch 1f276317
    """
    settings = read_settings(read_environment())
    database = open_interactive_database(settings)
    screen, started_s = _RunScreen(as_json=as_json), time.monotonic()
    with open_optional_truto_api(settings) as api:
        watcher = RunWatcher(database, run_ids, RunRefresher(Runs(database), api) if api else None)
        try:
            while True:
                watcher.load()
                screen.show(watcher)
                if watcher.is_finished:
                    break
                if missing := _find_missing(watcher, waited_s=time.monotonic() - started_s):
                    exit_run_not_found(missing, click.get_current_context())
                watcher.refresh_in_background()
                time.sleep(interval_s)
        except KeyboardInterrupt:
            return
    if not watcher.runs:
        print_message("No run in progress. To list the runs that have ended, run: rapidbridge runs list")
    if watcher.has_gaps:
        sys.exit(1)


def _find_missing(watcher: RunWatcher, *, waited_s: float) -> str | None:
    """Return the first watched id for which no event is to be expected."""
    return next(
        (
            run_id
            for run_id in watcher.unknown_ids
            if waited_s >= _FIRST_EVENT_TIMEOUT_S or run_id in watcher.missing_ids or not is_uuid(run_id)
        ),
        None,
    )


class _RunScreen:
    """Redraws its lines on a terminal; elsewhere prints a line for every change."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._is_live = sys.stdout.isatty() and not as_json
        self._drawn_lines = 0
        self._last_lines: dict[str, str] = {}

    def show(self, watcher: RunWatcher) -> None:
        """Show the current state of the runs."""
        if self._is_live:
            self._draw(watcher)
            return
        for run, reconciliation in watcher.runs:
            line = (
                to_json(run_as_json(run, reconciliation))
                if self._as_json
                else _format_line(run, reconciliation)
            )
            if self._last_lines.get(run.sync_job_run_id) != line:
                click.echo(line)
            self._last_lines[run.sync_job_run_id] = line

    def _draw(self, watcher: RunWatcher) -> None:
        lines = _watch_lines(watcher)
        # Lines that have scrolled out of the window cannot be redrawn.
        columns, rows = shutil.get_terminal_size()
        heights = [-(-len(click.unstyle(line)) // columns) for line in lines]
        while heights and sum(heights) > rows - 2:
            heights.pop()
        lines = lines if len(heights) == len(lines) else [*lines[: len(heights)], "…"]
        cursor_up = f"\x1b[{self._drawn_lines}A\x1b[J" if self._drawn_lines else ""
        if lines or self._drawn_lines:
            text = "\n".join(lines)
            if click.get_current_context().color is False:
                # Here, because click would remove the movement of the cursor too.
                text = click.unstyle(text)
            click.echo(cursor_up + text, color=True)
        self._drawn_lines = sum(heights) + len(lines) - len(heights)


def _watch_lines(watcher: RunWatcher) -> list[str]:
    lines = []
    for run, reconciliation in watcher.runs:
        last_seen_at = run.last_seen_at or run.first_seen_at
        age_s = max(0.0, (utc_now() - last_seen_at).total_seconds())
        title = click.style(f"run {replace_control_chars(run.sync_job_run_id)}", bold=True)
        lines.append(
            f"{title}  {format_status(run)}, {format_verdict(reconciliation)}, seen {age_s:.0f} s ago"
        )
        lines += resource_lines(reconciliation)
    lines += [f"run {replace_control_chars(run_id)}  no event received yet" for run_id in watcher.unknown_ids]
    return lines


def _format_line(run: StoredRun, reconciliation: Reconciliation) -> str:
    sums = {name: sum(getattr(counts, name) or 0 for counts in reconciliation.resources) for name in _COUNTS}
    text = "  ".join(f"{name} {number:,}" for name, number in sums.items())
    run_id = replace_control_chars(run.sync_job_run_id)
    return f"{run_id}  {format_status(run)}, {name_verdict(reconciliation.verdict)}  {text}"
