"""rapidbridge prune."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import click

from app.cli.common.progress import progress_bar
from app.cli.common.times import parse_time_option
from app.config.settings import Settings, read_environment, read_settings
from app.database.engine import Database, open_database
from app.store.archive import Archive
from app.store.retention import PruneCounts, count_prunable
from app.store.retention import prune as prune_pages


def _parse_archive(_context: click.Context, _option: click.Parameter, value: str | None) -> Archive | None:
    if value is None:
        return None
    if not value.startswith("file:///"):
        raise click.BadParameter(f"{value!r} is no folder: write file:///srv/archive.")
    return Archive(value)


def _now() -> datetime:
    return datetime.now(UTC)


@click.command()
@click.option(
    "--older-than",
    callback=parse_time_option,
    help="What came longer ago than this, or before then: 30d, 2026-11-25.  [default: RETENTION_DAYS]",
)
@click.option(
    "--archive", callback=_parse_archive, help="Write it to this folder first: file:///srv/archive."
)
@click.option("--dry-run", is_flag=True, help="Only say how much it would be.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def prune(older_than: datetime | None, archive: Archive | None, *, dry_run: bool, as_json: bool) -> None:
    """Remove the bodies of finished deliveries that are old.

    Finished is what is settled, refused or discarded; all else stays whole, however old. Rows, outcomes and
    so the totals of every run stay, and records as they came go with the bodies. May be broken off and run
    again at any time, beside everything else. What is pruned cannot be replayed.

    \b
    Examples:
      rapidbridge prune --older-than 30d --dry-run
      rapidbridge prune --older-than 90d --archive file:///srv/archive
    """
    settings = read_settings(read_environment())
    before = older_than or _compute_cutoff(settings)
    store = open_database(settings.database_url, interactive=True)
    pruned = count_prunable(store, before=before)
    if not dry_run:
        pruned = _prune_deliveries(store, before, archive, deliveries=pruned.deliveries)
    if as_json:
        click.echo(json.dumps({"before": before.isoformat(), "is_dry_run": dry_run, **asdict(pruned)}))
        return
    did = "Would remove" if dry_run else "Removed"
    click.echo(
        f"{did} the bodies of {pruned.deliveries:,} deliveries that came before {before:%Y-%m-%d %H:%M} UTC: "
        f"{pruned.stored_bytes:,} bytes; with them {pruned.dead_records:,} dead records and "
        f"{pruned.record_errors:,} record errors as they came."
    )
    if pruned.deliveries and not dry_run and store.dialect.name == "sqlite":
        click.echo("The file keeps its size and reuses the space. VACUUM gives it back: docs/operations.md")


def _compute_cutoff(settings: Settings) -> datetime:
    if not settings.retention_days:
        raise click.UsageError("Nothing says what is old: pass --older-than 30d, or set RETENTION_DAYS.")
    return _now() - timedelta(days=settings.retention_days)


def _prune_deliveries(
    store: Database, before: datetime, archive: Archive | None, *, deliveries: int
) -> PruneCounts:
    pruned = PruneCounts()
    with progress_bar("Pruning", deliveries) as bar:
        for page in prune_pages(store, before=before, archive=archive, clock=_now):
            pruned += page
            bar.update(page.deliveries)
    return pruned
