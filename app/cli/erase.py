"""rapidbridge erase."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.cli.common.tables import table_lines
from app.config.load import read_setup
from app.database.engine import open_store
from app.erasure import Erasure, Findings
from app.redis.queue import connect
from app.redis.spool import Spool
from app.sinks import Sinks

_PLACES = {
    "spool": "deliveries waiting in Redis",
    "bodies": "bodies of deliveries",
    "pending": "deliveries that would land yet",
    "dead_records": "dead records as they came",
    "record_errors": "record errors as they came",
    "runs": "runs with what they were started with",
}
_BEYOND = (
    "Out of reach are backups, archives, the logs, notices that were sent, sinks that are no longer in the "
    "routes file, and deliveries that could not be read and name no account. What comes of it from now on is "
    "kept and written as before: stop its sync jobs at Truto first."
)


def _named(_context: click.Context, _option: click.Parameter, given: str) -> str:
    if not given.strip():
        raise click.BadParameter("it is empty: that would be everything that names no account.")
    return given


@click.command()
@click.option("--account", required=True, callback=_named, help="The integrated account's id.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what there is.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def erase(account: str, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Remove all there is of an integrated account: here, and in every sink.

    Bodies, records as they came, what its runs were started with; rows and files of its records. What is
    pending is discarded and never written. Ids, states and counts stay: runs add up as before. May be broken
    off and run again. Exits 1 if a place could not be reached.

    \b
    Examples:
      rapidbridge erase --account 5f3c2d61-8e14-4a0e-9d27-3f0b7c9a1e55 --dry-run
      rapidbridge erase --account 5f3c2d61-8e14-4a0e-9d27-3f0b7c9a1e55 --yes
    """
    with _erasure(account) as erasure:
        found = erasure.find()
        if not as_json:
            _show(account, found)
        erased = None
        if not dry_run and (found.total or found.in_hand or found.unreached):
            _confirm(account, yes=yes, as_json=as_json)
            erased = erasure.erase()
    last = erased or found
    if as_json:
        told = {
            "found": found.numbers,
            "erased": erased.numbers if erased else None,
            "unreached": last.unreached,
        }
        click.echo(json.dumps({"account": account, "is_dry_run": dry_run, **told}))
    elif erased:
        click.echo(f"Erased: {_sum_up(erased)}.")
    for place, why in last.unreached.items():
        click.secho(f"Not reached: {_PLACES.get(place, place)}: {why}", fg="red", err=True)
    if not as_json:
        click.echo(_BEYOND)
    if last.unreached:
        sys.exit(1)


@contextmanager
def _erasure(account: str) -> Iterator[Erasure]:
    setup = read_setup()
    settings = setup.settings
    redis = connect(settings.redis_url, tls_verify=settings.redis_tls_verify) if settings.redis_url else None
    sinks = Sinks(setup.routes)
    store = open_store(settings.database_url, for_person=True)
    try:
        yield Erasure(
            store,
            account,
            spool=Spool(redis) if redis else None,
            sinks=sorted(setup.routes.sinks),
            open_sink=sinks.open,
            tell=lambda line: click.echo(line, err=True),
        )
    finally:
        sinks.close()
        store.dispose()


def _show(account: str, found: Findings) -> None:
    rows = [(_PLACES.get(place, place), number) for place, number in found.numbers.items()]
    click.echo(f"Account {account}:")
    for line in table_lines(("what", "number"), rows, indent=2):
        click.echo(line)


def _sum_up(erased: Findings) -> str:
    told = [
        f"{number:,} {_PLACES.get(place, f'of {place}')}"
        for place, number in erased.numbers.items()
        if number
    ]
    return ", ".join(told) or "nothing was left"


def _confirm(account: str, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to confirm: pass --yes to erase without asking.")
    click.confirm(f"Erase all of this of account {account}? It cannot be undone.", abort=True)
