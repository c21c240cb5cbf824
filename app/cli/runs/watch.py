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

from app.cli.common.output import printable
from app.cli.runs.asking import AS_JSON, as_run_id, truto_if_set
from app.cli.runs.list import account_for_all
from app.cli.runs.telling import as_json as told_as_json
from app.cli.runs.telling import resource_lines, status_of, verdict_of
from app.config.settings import read_environment, read_settings
from app.database.engine import Store, open_store
from app.errors import StoreUnavailable, TrutoRefused, TrutoUnavailable
from app.runs.reconciliation import Account
from app.runs.refresh import Inquiry
from app.store.runs import KnownRun, RunBook

# Truto counts anew this often.
_ASK_EVERY_S = 10.0
_MOST_RUNS = 20
_OVER = ("complete", "incomplete", "unknown", "refused")
# A run that nobody named is shown for this long after its end.
_SHOWN_AFTER_END = timedelta(minutes=1)

Found = Sequence[tuple[KnownRun, Account]]


def _number(_context: click.Context, _option: click.Parameter, given: float) -> float:
    if math.isnan(given):
        raise click.BadParameter("that is no number.")
    return given


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[ID...]", callback=as_run_id)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    callback=_number,
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@AS_JSON
def watch(run_ids: Sequence[str], interval_s: float, *, as_json: bool) -> None:
    """Watch runs as they go on: what Truto fetched so far, what arrived, what the sinks hold.

    Ends when the named runs have ended and nothing of them waits, and exits 1 if anything is missing. Without
    an ID, it watches all that are open, until Ctrl-C. With TRUTO_API_TOKEN, Truto is asked how far it is.

    \b
    Example:
      rapidbridge runs watch 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
    """
    settings = read_settings(read_environment())
    store = open_store(settings.database_url, for_person=True)
    screen = _Screen(as_json=as_json)
    asking, asked_s = threading.Thread(), 0.0
    with truto_if_set(settings) as api:
        inquiry = Inquiry(RunBook(store), api) if api else None
        try:
            while True:
                found = _look(store, run_ids)
                screen.show(found, run_ids)
                if run_ids and _are_over(found, run_ids):
                    break
                # Beside the drawing: Truto may take its time.
                if inquiry and not asking.is_alive() and time.monotonic() - asked_s > _ASK_EVERY_S:
                    asking = threading.Thread(target=_ask, args=(inquiry, found, run_ids), daemon=True)
                    asking.start()
                    asked_s = time.monotonic()
                time.sleep(interval_s)
        except KeyboardInterrupt:
            # How one stops watching.
            return
    if any(account.is_bad_news for _, account in found):
        sys.exit(1)


def _are_over(found: Found, run_ids: Sequence[str]) -> bool:
    return len(found) == len(set(run_ids)) and all(account.verdict in _OVER for _, account in found)


def _look(store: Store, run_ids: Sequence[str]) -> Found:
    book = RunBook(store)
    if run_ids:
        runs = [run for each in dict.fromkeys(run_ids) if (run := book.get(each))]
    else:
        runs = book.going_on(ended_since=datetime.now(UTC) - _SHOWN_AFTER_END, most=_MOST_RUNS)
    return account_for_all(store, runs)


def _ask(inquiry: Inquiry, found: Found, run_ids: Sequence[str]) -> None:
    ended = {run.sync_job_run_id for run, _ in found if run.has_ended}
    for each in run_ids or [run.sync_job_run_id for run, _ in found]:
        if each not in ended:
            # What Truto does not tell now, its events tell later.
            # Nor is it news that the watch is over meanwhile, which closes the connection: RuntimeError.
            with suppress(TrutoRefused, TrutoUnavailable, StoreUnavailable, RuntimeError):
                inquiry.ask(each, now=datetime.now(UTC))


class _Screen:
    """Draws over what it drew before, on a terminal; elsewhere it writes a line for each change."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._is_live = sys.stdout.isatty() and not as_json
        self._drawn = 0
        self._last: dict[str, str] = {}

    def show(self, found: Found, run_ids: Sequence[str]) -> None:
        """Show how the runs stand."""
        if self._is_live:
            self._draw(found, run_ids)
            return
        for run, account in found:
            line = (
                json.dumps(told_as_json(run, account), default=str) if self._as_json else _line(run, account)
            )
            if self._last.get(run.sync_job_run_id) != line:
                click.echo(line)
            self._last[run.sync_job_run_id] = line

    def _draw(self, found: Found, run_ids: Sequence[str]) -> None:
        lines = []
        for run, account in found:
            seen = run.last_seen_at or run.first_seen_at
            ago_s = max(0.0, (datetime.now(UTC) - seen).total_seconds())
            head = click.style(f"run {printable(run.sync_job_run_id)}", bold=True)
            lines.append(f"{head}  {status_of(run)}, {verdict_of(account)}, heard {ago_s:.0f} s ago")
            lines += resource_lines(account)
        unheard = [each for each in run_ids if each not in {run.sync_job_run_id for run, _ in found}]
        lines += [f"run {each}  nothing has come of it yet" for each in unheard]
        lines = lines or ["No run is open. Ctrl-C ends this."]
        # What is scrolled out of sight cannot be drawn over.
        columns, rows = shutil.get_terminal_size()
        heights = [-(-len(click.unstyle(line)) // columns) for line in lines]
        while heights and sum(heights) > rows - 2:
            heights.pop()
        lines = lines if len(heights) == len(lines) else [*lines[: len(heights)], "…"]
        up = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        click.echo(up + "\n".join(lines))
        self._drawn = sum(heights) + len(lines) - len(heights)


def _line(run: KnownRun, account: Account) -> str:
    sums = {
        name: sum(getattr(line, name) or 0 for line in account.lines)
        for name in ("fetched", "arrived", "written", "dead", "missing", "errors")
    }
    told = "  ".join(f"{name} {number:,}" for name, number in sums.items())
    return f"{printable(run.sync_job_run_id)}  {status_of(run)}, {account.verdict}  {told}"
