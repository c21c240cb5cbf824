"""rapidbridge runs show."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import click

from app.cli.common.output import clock, printable
from app.cli.runs.asking import AS_JSON, as_run_id
from app.cli.runs.list import account_for_all
from app.cli.runs.telling import as_json as told_as_json
from app.cli.runs.telling import resource_lines, status_of, verdict_of
from app.config.settings import read_environment, read_settings
from app.database.engine import open_store
from app.runs.reconciliation import Account
from app.store.notifications import Notice, Notices
from app.store.runs import KnownRun, RunBook

_WIDTH = 9
_MOST_NOTICES = 50


@click.command()
@click.argument("run", metavar="ID", callback=as_run_id)
@AS_JSON
def show(run: str, *, as_json: bool) -> None:
    """Show a run: where it stands, and what became of its records.

    \b
    Example:
      rapidbridge runs show 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5
    """
    store = open_store(read_settings(read_environment()).database_url, for_person=True)
    known = RunBook(store).get(run)
    if known is None:
        hint = f"To ask Truto: rapidbridge runs reconcile {run}"
        click.echo(f"Nothing of run {run} has ever arrived here. {hint}", err=True)
        sys.exit(1)
    [(known, account)] = account_for_all(store, [known])
    history = Notices(store).of(run, most=_MOST_NOTICES)
    if as_json:
        told = told_as_json(known, account) | {"history": [asdict(notice) for notice in history]}
        click.echo(json.dumps(told, default=str))
        return
    for line in (*run_lines(known, account), *_history_lines(history)):
        click.echo(line)


def run_lines(run: KnownRun, account: Account) -> Iterator[str]:
    """Yield a run as `show` prints it."""
    head = click.style(f"run {printable(run.sync_job_run_id)}", bold=True)
    yield f"{head}  {status_of(run)}, {verdict_of(account)}"
    facts = {
        "job": printable(run.sync_job_id),
        "account": printable(run.integrated_account_id),
        "webhook": printable(run.webhook_id),
        "seen": f"{clock(run.first_seen_at)} to {clock(run.last_seen_at)} UTC",
        "settled": f"{clock(run.settled_at)} UTC" if run.settled_at else "",
        "refused": printable(run.refused),
        "stop": _stop(run),
    }
    yield from (f"  {name:{_WIDTH}}{value}" for name, value in facts.items() if value)
    yield from resource_lines(account)


def _history_lines(history: Sequence[Notice]) -> Iterator[str]:
    for notice in history:
        said = notice.told.get("reason") or notice.told.get("verdict") or ""
        yield f"  {clock(notice.at)}  {notice.kind}  {printable(str(said))}".rstrip()


def _stop(run: KnownRun) -> str:
    if not run.stop_cause:
        return ""
    asked = (
        f"Truto was asked at {clock(run.stop_asked_at)} UTC" if run.stop_asked_at else "Truto was not asked"
    )
    return f"{printable(run.stop_cause)}; {asked}"
