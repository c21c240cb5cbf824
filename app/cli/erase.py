"""rapidbridge erase: deletion of an integrated account's data."""

import sys
import textwrap
from dataclasses import replace

import click

from app.cli.common.audit import audit
from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import LINE_WIDTH, format_message
from app.cli.common.options import dry_run_option, json_option, yes_option
from app.cli.common.output import print_json
from app.cli.common.prompts import confirm
from app.cli.common.tables import format_table
from app.cli.local.valkey import find_running_valkey
from app.config.load import Config, read_config
from app.erasure import ErasureReport, open_erasure

_PLACE_LABELS = {
    "spool": "deliveries in Redis",
    "bodies": "bodies of deliveries",
    "pruned": "pruned deliveries, barred from a restore",
    "pending": "pending deliveries",
    "dead_records": "dead records' JSON",
    "record_errors": "record errors' JSON",
    "runs": "runs' arguments and details",
    "syncs": "syncs on the accounts page",
    "names": "rows that name the account",
}
_NOT_ERASED = (
    "Not erased: backups, archives, logs, notifications that were sent, sinks that are no longer in the "
    "routes file, and unreadable deliveries without an account. Deliveries that arrive from now on are kept "
    "and written as before: stop the account's sync jobs at Truto first."
)


def _require_account(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("the id is empty: it would match all deliveries without an account.")
    return value


@click.command()
@click.option(
    "--account", required=True, metavar="ID", callback=_require_account, help="The integrated account's id."
)
@yes_option
@dry_run_option
@json_option
def erase(account: str, *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete the data of one integrated account everywhere.

    Deleted are: bodies of deliveries, the JSON of dead records and record errors, the runs' arguments, and
    the account's rows and files in every sink. Pending deliveries are discarded and never written. The
    account's id is replaced by a pseudonym in all tables of the store. Other ids, states and counts stay, and
    so do run totals. The command may be interrupted and run again.

    Exits 1 if a place could not be reached.

    \b
    Examples:
      rapidbridge erase --account 5f3c2d61-8e14-4a0e-9d27-3f0b7c9a1e55 --dry-run
      rapidbridge erase --account 5f3c2d61-8e14-4a0e-9d27-3f0b7c9a1e55 --yes
    """
    config = _find_redis(read_config())
    with open_erasure(config, account, on_wait=lambda line: click.echo(line, err=True)) as erasure:
        before = erasure.count_data()
        if not as_json:
            _print_counts(account, before)
        erased = None
        if not (dry_run or before.is_empty):
            if as_json and not yes:
                raise click.UsageError("--json shows no numbers to confirm: pass --yes as well.")
            confirm(f"Erase all data of account {account}? This cannot be undone.", yes=yes)
            # Without the id: the log is no place to find the account again.
            audit(open_interactive_database(config.settings), "account.erase", "an integrated account")
            erased = erasure.erase_data()
    last = erased or before
    if as_json:
        print_json(
            {
                "account": account,
                "is_dry_run": dry_run,
                "found": before.counts,
                "erased": erased.counts if erased else None,
                "unreached": last.unreached,
            }
        )
    elif erased:
        click.echo(textwrap.fill(f"Erased: {_summarize_counts(erased)}.", LINE_WIDTH))
    for place, reason in last.unreached.items():
        text = format_message(f"Not reached: {_PLACE_LABELS.get(place, place)}: {reason}")
        click.secho(text, fg="red", err=True)
    if not as_json:
        click.echo(textwrap.fill(_NOT_ERASED, LINE_WIDTH))
    if last.unreached:
        sys.exit(1)


def _find_redis(config: Config) -> Config:
    """Return a configuration with the Valkey of a running `rapidbridge up`, if REDIS_URL is not set."""
    settings = config.settings
    url = settings.redis_url or find_running_valkey(settings.namespace)
    return replace(config, settings=settings.model_copy(update={"redis_url": url})) if url else config


def _print_counts(account: str, report: ErasureReport) -> None:
    rows = [(_PLACE_LABELS.get(place, place), number) for place, number in report.counts.items()]
    click.echo(f"Account {account}:")
    for line in format_table(("data", "number"), rows, indent=2):
        click.echo(line)


def _summarize_counts(report: ErasureReport) -> str:
    parts = [
        f"{_PLACE_LABELS.get(place, place)} {number:,}" for place, number in report.counts.items() if number
    ]
    return ", ".join(parts) or "nothing was left"
