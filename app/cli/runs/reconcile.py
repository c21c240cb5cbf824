"""rapidbridge runs reconcile."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import click

from app.cli import UNREACHABLE
from app.cli.common.progress import progress_bar
from app.cli.common.times import moment
from app.cli.runs.asking import AS_JSON, as_run_id, truto_if_set
from app.cli.runs.show import run_lines
from app.cli.runs.telling import as_json as told_as_json
from app.config.settings import read_environment, read_settings
from app.database.engine import Store, open_store
from app.errors import TrutoRefused, TrutoUnavailable
from app.runs.reconcile import Silence
from app.runs.reconcile import reconcile as account_for_run
from app.runs.reconciliation import Account
from app.runs.refetch import refetch
from app.runs.refresh import Inquiry
from app.store.runs import KnownRun, RunBook
from app.truto.api import TrutoApi

_BY_DEFAULT = timedelta(days=1)
_MOST = 100_000


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[ID...]", callback=as_run_id)
@click.option(
    "--since",
    callback=moment,
    help="Every run first heard of since then: 12h, 7d, 2026-11-25T08:00.  [default without an ID: 1d]",
)
@click.option("--refetch", "is_refetched", is_flag=True, help="Have Truto run again what is incomplete.")
@click.option("--yes", is_flag=True, help="Do not ask before that.")
@AS_JSON
def reconcile(
    run_ids: Sequence[str], since: datetime | None, *, is_refetched: bool, yes: bool, as_json: bool
) -> None:
    """Compare what Truto fetched with what arrived, and that with what the sinks hold.

    With TRUTO_API_TOKEN, Truto is asked for what its events left out, and its log for what it gave up. Exits
    1 if records are missing, or kept out of a sink.

    \b
    Examples:
      rapidbridge runs reconcile 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
      rapidbridge runs reconcile --since 12h --json
    """
    if run_ids and since:
        raise click.UsageError("Name runs, or a time: not both.")
    settings = read_settings(read_environment(), needs=("TRUTO_API_TOKEN",) if is_refetched else ())
    store, now = open_store(settings.database_url, for_person=True), datetime.now(UTC)
    with truto_if_set(settings) as api:
        inquiry = Inquiry(RunBook(store), api) if api else None
        silences: list[Silence] = []
        if run_ids:
            runs = _named(store, run_ids, inquiry, silences)
        else:
            runs = RunBook(store).find({}, since=since or now - _BY_DEFAULT, most=_MOST)
        with progress_bar("comparing runs", len(runs)) as bar:
            found = []
            for run in runs:
                # Who does not answer is not asked for every run.
                asked = None if _is_away(silences) else inquiry
                found.append(account_for_run(store, run, asked, now=now, tell=silences.append))
                bar.update(1)
        if as_json:
            click.echo(json.dumps([told_as_json(*each) for each in found], default=str))
        else:
            _print(found, in_full=bool(run_ids))
        bad = [run for run, account in found if account.verdict == "incomplete"]
        if is_refetched and bad and api:
            _refetch(api, bad, yes=yes)
    for said in dict.fromkeys(map(str, silences)):
        click.echo(said, err=True)
    if len(found) < len(set(run_ids)) or any(account.is_bad_news for _, account in found):
        sys.exit(1)
    if silences:
        sys.exit(UNREACHABLE if _is_away(silences) else 1)


def _is_away(silences: Sequence[Silence]) -> bool:
    return any(isinstance(silence, TrutoUnavailable) for silence in silences)


def _named(
    store: Store, run_ids: Sequence[str], inquiry: Inquiry | None, silences: list[Silence]
) -> list[KnownRun]:
    book, found = RunBook(store), []
    for each in dict.fromkeys(run_ids):
        run = book.get(each)
        try:
            run = run or (inquiry.ask(each, now=datetime.now(UTC)) if inquiry else None)
        except (TrutoRefused, TrutoUnavailable) as error:
            silences.append(error)
        if run:
            found.append(run)
        elif not silences:
            hint = "" if inquiry else "; with TRUTO_API_TOKEN, Truto would be asked"
            click.echo(f"Nothing of run {each} has ever arrived here{hint}.", err=True)
    return found


def _print(found: Sequence[tuple[KnownRun, Account]], *, in_full: bool) -> None:
    """Print every run that is named, and of all others those that leave something to be said."""
    for run, account in found:
        if in_full or account.is_bad_news:
            for line in run_lines(run, account):
                click.echo(line)
            click.echo()
    click.echo(", ".join(_summary(found)) + "." if found else "No run to compare.")


def _summary(found: Sequence[tuple[KnownRun, Account]]) -> Iterator[str]:
    yield f"{len(found):,} {'run' if len(found) == 1 else 'runs'}"
    verdicts: dict[str, int] = {}
    for _, account in found:
        verdicts[account.verdict] = verdicts.get(account.verdict, 0) + 1
    yield from (f"{number:,} {verdict}" for verdict, number in sorted(verdicts.items()))
    missing = sum(line.missing for _, account in found for line in account.lines)
    yield f"{missing:,} records missing"


def _refetch(api: TrutoApi, runs: Sequence[KnownRun], *, yes: bool) -> None:
    what = "this run" if len(runs) == 1 else f"these {len(runs)} runs"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Nobody is there to confirm: pass --yes to have it all fetched again.")
        click.confirm(
            f"Have Truto fetch everything of {what} again? That is a full sync of each.", abort=True
        )
    for run in runs:
        try:
            again = refetch(api, run)
        except TrutoRefused as error:
            click.echo(f"{run.sync_job_run_id}  not fetched again: {error}", err=True)
        else:
            click.echo(f"{run.sync_job_run_id}  fetched again by run {again.id}", err=True)
