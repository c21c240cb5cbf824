"""rapidbridge erase."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from app.cli.common.tables import format_table
from app.config.load import read_config
from app.database.engine import open_database
from app.erasure import Erasure, ErasureReport
from app.redis.queue import connect_redis
from app.redis.spool import Spool
from app.sinks.registry import SinkRegistry

_PLACE_LABELS = {
    "spool": "deliveries waiting in Redis",
    "bodies": "bodies of deliveries",
    "pending": "deliveries that would land yet",
    "dead_records": "dead records as they came",
    "record_errors": "record errors as they came",
    "runs": "runs with what they were started with",
}
_NOT_ERASED = (
    "Out of reach are backups, archives, the logs, notices that were sent, sinks that are no longer in the "
    "routes file, and deliveries that could not be read and name no account. What comes of it from now on is "
    "kept and written as before: stop its sync jobs at Truto first."
)


def _require_account(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("it is empty: that would be everything that names no account.")
    return value


@click.command()
@click.option("--account", required=True, callback=_require_account, help="The integrated account's id.")
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
    with _open_erasure(account) as erasure:
        before = erasure.count_data()
        if not as_json:
            _print_counts(account, before)
        erased = None
        if not dry_run and (before.total or before.in_progress or before.unreached):
            _confirm_erasure(account, yes=yes, as_json=as_json)
            erased = erasure.erase_data()
    last = erased or before
    if as_json:
        output = {
            "found": before.counts,
            "erased": erased.counts if erased else None,
            "unreached": last.unreached,
        }
        click.echo(json.dumps({"account": account, "is_dry_run": dry_run, **output}))
    elif erased:
        click.echo(f"Erased: {_summarize_counts(erased)}.")
    for place, why in last.unreached.items():
        click.secho(f"Not reached: {_PLACE_LABELS.get(place, place)}: {why}", fg="red", err=True)
    if not as_json:
        click.echo(_NOT_ERASED)
    if last.unreached:
        sys.exit(1)


@contextmanager
def _open_erasure(account: str) -> Iterator[Erasure]:
    config = read_config()
    settings = config.settings
    redis = (
        connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
        if settings.redis_url
        else None
    )
    sinks = SinkRegistry(config.routes)
    store = open_database(settings.database_url, interactive=True)
    try:
        yield Erasure(
            store,
            account,
            spool=Spool(redis) if redis else None,
            sinks=sinks,
            on_wait=lambda line: click.echo(line, err=True),
        )
    finally:
        sinks.close()
        store.close()


def _print_counts(account: str, counts: ErasureReport) -> None:
    rows = [(_PLACE_LABELS.get(place, place), number) for place, number in counts.counts.items()]
    click.echo(f"Account {account}:")
    for line in format_table(("what", "number"), rows, indent=2):
        click.echo(line)


def _summarize_counts(counts: ErasureReport) -> str:
    parts = [
        f"{number:,} {_PLACE_LABELS.get(place, f'of {place}')}"
        for place, number in counts.counts.items()
        if number
    ]
    return ", ".join(parts) or "nothing was left"


def _confirm_erasure(account: str, *, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise click.UsageError("Nobody is there to confirm: pass --yes to erase without asking.")
    click.confirm(f"Erase all of this of account {account}? It cannot be undone.", abort=True)
