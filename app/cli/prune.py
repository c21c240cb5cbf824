"""rapidbridge prune: deletion of old bodies."""

from dataclasses import asdict
from datetime import datetime

import click

from app.cli.common.options import dry_run_option, json_option
from app.cli.common.output import print_json
from app.cli.common.progress import progress_bar
from app.cli.common.times import parse_time_option
from app.clock import utc_now
from app.config.settings import read_environment, read_settings
from app.database.engine import Database, open_database
from app.plural import format_count
from app.store.archive import Archive
from app.store.retention import PruneCounts, compute_cutoff, count_prunable
from app.store.retention import prune as prune_pages


def _parse_archive(_context: click.Context, _option: click.Parameter, value: str | None) -> Archive | None:
    if value is None:
        return None
    if not value.startswith("file:///"):
        raise click.BadParameter(f"{value!r} is not a folder's URL: write file:///srv/archive.")
    return Archive(value)


@click.command()
@click.option(
    "--older-than",
    metavar="AGE",
    callback=parse_time_option,
    help="Received before this age or time: 30d, 2026-11-25.  [default: RETENTION_DAYS]",
)
@click.option(
    "--archive",
    metavar="URL",
    callback=_parse_archive,
    help="Write the bodies to this folder first: file:///srv/archive.",
)
@dry_run_option
@json_option
def prune(older_than: datetime | None, archive: Archive | None, *, dry_run: bool, as_json: bool) -> None:
    """Delete the bodies of old, finished deliveries.

    Finished deliveries are settled, refused or discarded; all others are kept whole. The JSON of their dead
    records and record errors is deleted, too. Rows, sink results and run totals stay. A pruned delivery
    cannot be replayed. The command may be interrupted and run again at any time.

    \b
    Examples:
      rapidbridge prune --older-than 30d --dry-run
      rapidbridge prune --older-than 90d --archive file:///srv/archive
    """
    settings = read_settings(read_environment())
    before = older_than or compute_cutoff(settings.retention_days, now=utc_now())
    if before is None:
        raise click.UsageError("No age is given: pass --older-than 30d, or set RETENTION_DAYS.")
    database = open_database(settings.database_url, schema=settings.database_schema, interactive=True)
    pruned = count_prunable(database, before=before)
    if not dry_run:
        pruned = _prune_deliveries(database, before, archive, deliveries=pruned.deliveries)
    if as_json:
        print_json({"before": before, "is_dry_run": dry_run, **asdict(pruned)})
        return
    click.echo(
        f"{'Would delete' if dry_run else 'Deleted'} the bodies of "
        f"{format_count(pruned.deliveries, 'delivery')} received before {before:%Y-%m-%d %H:%M} UTC:\n"
        f"{pruned.stored_bytes:,} bytes; also the JSON of {format_count(pruned.dead_records, 'dead record')} "
        f"and {format_count(pruned.record_errors, 'record error')}."
    )
    if pruned.deliveries and not dry_run and database.dialect.name == "sqlite":
        click.echo("The database file keeps its size and reuses the space. To shrink it, run VACUUM:")
        click.echo("see docs/operations.md.")


def _prune_deliveries(
    database: Database, before: datetime, archive: Archive | None, *, deliveries: int
) -> PruneCounts:
    pruned = PruneCounts()
    with progress_bar("Pruning", deliveries) as bar:
        for page in prune_pages(database, before=before, archive=archive, clock=utc_now):
            pruned += page
            bar.update(page.deliveries)
    return pruned
