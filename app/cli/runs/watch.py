"""rapidbridge runs watch."""

import json
import math
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import click

from app.cli.common.clients import JSON_OPTION, normalize_run_ids, open_optional_truto_api
from app.cli.common.output import replace_control_chars
from app.cli.runs.formatting import format_status, format_verdict, resource_lines, run_as_json
from app.cli.runs.list import reconcile_runs
from app.config.settings import read_environment, read_settings
from app.database.engine import Database, open_database
from app.errors import StoreUnavailable, TrutoRefused, TrutoUnavailable
from app.runs.reconciliation import Reconciliation
from app.runs.refresh import RunRefresher
from app.store.runs import Runs, StoredRun

# Truto counts anew this often.
_REFRESH_INTERVAL_S = 10.0
_MAX_RUNS = 20
_FINAL_VERDICTS = ("complete", "incomplete", "unknown", "refused")
# A run that nobody named is shown for this long after its end.
_SHOWN_AFTER_END = timedelta(minutes=1)

ReconciledRuns = Sequence[tuple[StoredRun, Reconciliation]]


def _require_number(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if math.isnan(value):
        raise click.BadParameter("that is no number.")
    return value


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[ID...]", callback=normalize_run_ids)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    callback=_require_number,
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@JSON_OPTION
def watch(run_ids: Sequence[str], interval_s: float, *, as_json: bool) -> None:
    """Watch runs as they go on: what Truto fetched so far, what arrived, what the sinks hold.

    Ends when the named runs have ended and nothing of them waits, and exits 1 if anything is missing. Without
    an ID, it watches all that are open, until Ctrl-C. With TRUTO_API_TOKEN, Truto is asked how far it is.

    \b
    Example:
      rapidbridge runs watch 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
    """
    settings = read_settings(read_environment())
    store = open_database(settings.database_url, interactive=True)
    screen = _RunScreen(as_json=as_json)
    refresh_thread, refreshed_at_s = threading.Thread(), 0.0
    with open_optional_truto_api(settings) as api:
        refresher = RunRefresher(Runs(store), api) if api else None
        try:
            while True:
                reconciled_runs = _load_runs(store, run_ids)
                screen.show(reconciled_runs, run_ids)
                if run_ids and _are_finished(reconciled_runs, run_ids):
                    break
                # Beside the drawing: Truto may take its time.
                if (
                    refresher
                    and not refresh_thread.is_alive()
                    and time.monotonic() - refreshed_at_s > _REFRESH_INTERVAL_S
                ):
                    refresh_thread = threading.Thread(
                        target=_refresh_runs, args=(refresher, reconciled_runs, run_ids), daemon=True
                    )
                    refresh_thread.start()
                    refreshed_at_s = time.monotonic()
                time.sleep(interval_s)
        except KeyboardInterrupt:
            # How one stops watching.
            return
    if any(reconciliation.has_gaps for _, reconciliation in reconciled_runs):
        sys.exit(1)


def _are_finished(reconciled_runs: ReconciledRuns, run_ids: Sequence[str]) -> bool:
    return len(reconciled_runs) == len(set(run_ids)) and all(
        reconciliation.verdict in _FINAL_VERDICTS for _, reconciliation in reconciled_runs
    )


def _load_runs(store: Database, run_ids: Sequence[str]) -> ReconciledRuns:
    stored_runs = Runs(store)
    if run_ids:
        runs = [run for run_id in dict.fromkeys(run_ids) if (run := stored_runs.get(run_id))]
    else:
        runs = stored_runs.list_active(ended_since=datetime.now(UTC) - _SHOWN_AFTER_END, limit=_MAX_RUNS)
    return reconcile_runs(store, runs)


def _refresh_runs(refresher: RunRefresher, reconciled_runs: ReconciledRuns, run_ids: Sequence[str]) -> None:
    ended = {run.sync_job_run_id for run, _ in reconciled_runs if run.has_ended}
    for run_id in run_ids or [run.sync_job_run_id for run, _ in reconciled_runs]:
        if run_id not in ended:
            # What Truto does not tell now, its events tell later.
            # Nor is it news that the watch is over meanwhile, which closes the connection: RuntimeError.
            with suppress(TrutoRefused, TrutoUnavailable, StoreUnavailable, RuntimeError):
                refresher.refresh(run_id, now=datetime.now(UTC))


class _RunScreen:
    """Draws over what it drew before, on a terminal; elsewhere it writes a line for each change."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._is_live = sys.stdout.isatty() and not as_json
        self._drawn_lines = 0
        self._last_lines: dict[str, str] = {}

    def show(self, reconciled_runs: ReconciledRuns, run_ids: Sequence[str]) -> None:
        """Show how the runs stand."""
        if self._is_live:
            self._draw(reconciled_runs, run_ids)
            return
        for run, reconciliation in reconciled_runs:
            line = (
                json.dumps(run_as_json(run, reconciliation), default=str)
                if self._as_json
                else _format_line(run, reconciliation)
            )
            if self._last_lines.get(run.sync_job_run_id) != line:
                click.echo(line)
            self._last_lines[run.sync_job_run_id] = line

    def _draw(self, reconciled_runs: ReconciledRuns, run_ids: Sequence[str]) -> None:
        lines = []
        for run, reconciliation in reconciled_runs:
            last_seen_at = run.last_seen_at or run.first_seen_at
            ago_s = max(0.0, (datetime.now(UTC) - last_seen_at).total_seconds())
            head = click.style(f"run {replace_control_chars(run.sync_job_run_id)}", bold=True)
            lines.append(
                f"{head}  {format_status(run)}, {format_verdict(reconciliation)}, heard {ago_s:.0f} s ago"
            )
            lines += resource_lines(reconciliation)
        unknown_ids = [
            run_id for run_id in run_ids if run_id not in {run.sync_job_run_id for run, _ in reconciled_runs}
        ]
        lines += [f"run {run_id}  nothing has come of it yet" for run_id in unknown_ids]
        lines = lines or ["No run is open. Ctrl-C ends this."]
        # What is scrolled out of sight cannot be drawn over.
        columns, rows = shutil.get_terminal_size()
        heights = [-(-len(click.unstyle(line)) // columns) for line in lines]
        while heights and sum(heights) > rows - 2:
            heights.pop()
        lines = lines if len(heights) == len(lines) else [*lines[: len(heights)], "…"]
        up = f"\x1b[{self._drawn_lines}A\x1b[J" if self._drawn_lines else ""
        click.echo(up + "\n".join(lines))
        self._drawn_lines = sum(heights) + len(lines) - len(heights)


def _format_line(run: StoredRun, reconciliation: Reconciliation) -> str:
    sums = {
        name: sum(getattr(line, name) or 0 for line in reconciliation.resources)
        for name in ("fetched", "arrived", "written", "dead", "missing", "errors")
    }
    text = "  ".join(f"{name} {number:,}" for name, number in sums.items())
    run_id = replace_control_chars(run.sync_job_run_id)
    return f"{run_id}  {format_status(run)}, {reconciliation.verdict}  {text}"
