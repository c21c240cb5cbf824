"""rapidbridge prune: deletion of old bodies."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from uuid import UUID

import click

from app.cli.common.audit import audit
from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import print_message
from app.cli.common.options import dry_run_option, json_option, yes_option
from app.cli.common.output import print_json
from app.cli.common.progress import progress_bar
from app.cli.common.prompts import confirm
from app.cli.common.times import get_typed_times, parse_time_option
from app.clock import utc_now
from app.config.settings import read_environment, read_settings
from app.database.engine import Database
from app.plural import format_count
from app.store.archive import Archive
from app.store.bounded_count import BoundedCount
from app.store.retention import PruneCounts, compute_cutoff, count_prunable
from app.store.retention import prune as prune_pages

# A shorter age is likely a mistake: `1m` is a minute, not a month.
_MIN_AGE = timedelta(days=1)
_MAX_DAMAGED_SHOWN = 20


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
@yes_option
@dry_run_option
@json_option
@click.pass_context
def prune(
    context: click.Context,
    /,
    *,
    older_than: datetime | None,
    archive: Archive | None,
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete the bodies of old, finished deliveries.

    Finished deliveries are settled, refused or discarded; all others are kept whole. The JSON of their dead
    records and record errors is deleted, too. Rows, sink results and run totals stay. A pruned delivery
    cannot be replayed until `rapidbridge replay --from` restores its body from an archive. The command may be
    interrupted and run again at any time. It asks first, unless --yes; an age of less than a day needs --yes.

    Exits 1 if it is interrupted, or a damaged body was neither archived nor deleted.

    \b
    Examples:
      rapidbridge prune --older-than 30d --dry-run
      rapidbridge prune --older-than 90d --archive file:///srv/archive
    """
    settings, now = read_settings(read_environment()), utc_now()
    before = older_than or compute_cutoff(settings.retention_days, now=now)
    if before is None:
        raise click.UsageError("No age is given: pass --older-than 30d, or set RETENTION_DAYS.")
    if before > now - _MIN_AGE and not (yes or dry_run):
        raise click.UsageError(_describe_short_age(get_typed_times(context)["older_than"], before))
    database = open_interactive_database(settings)
    counts, is_finished = count_prunable(database, before=before), True
    if not dry_run and counts.deliveries:
        effect = "The archive gets a copy first." if archive else "This cannot be undone."
        confirm(f"{_describe('Delete', counts, before)}\n{effect} Continue?", yes=yes)
        audit(
            database,
            "delivery.prune",
            f"received before {before:%Y-%m-%d %H:%M}",
            BoundedCount(counts.deliveries),
        )
        counts, is_finished = _prune_deliveries(database, before, archive, deliveries=counts.deliveries)
    if as_json:
        print_json({"before": before, "is_dry_run": dry_run, **asdict(counts)})
    else:
        click.echo(_describe("Would delete" if dry_run else "Deleted", counts, before))
        if counts.deliveries and not dry_run and database.dialect.name == "sqlite":
            click.echo("The database file keeps its size and reuses the space. To shrink it, run VACUUM:")
            click.echo("see docs/operations.md.")
    if not is_finished:
        print_message("Interrupted. Run the same command again to delete the rest.")
    if archive and archive.damaged:
        print_message(_describe_damaged(archive.damaged))
    if not is_finished or (archive and archive.damaged):
        sys.exit(1)


def _describe_short_age(typed: str, before: datetime) -> str:
    return (
        f"--older-than {typed}: that is {before:%Y-%m-%d %H:%M} UTC, less than a day ago. "
        "An age in m is in minutes: for a month, write 30d. To delete the bodies of the last day, pass --yes."
    )


def _describe(verb: str, counts: PruneCounts, before: datetime) -> str:
    return (
        f"{verb} the bodies of {format_count(counts.deliveries, 'delivery')} received before "
        f"{before:%Y-%m-%d %H:%M} UTC:\n"
        f"{counts.stored_bytes:,} bytes; also the JSON of {format_count(counts.dead_records, 'dead record')} "
        f"and {format_count(counts.record_errors, 'record error')}."
    )


def _describe_damaged(ids: Sequence[UUID]) -> str:
    shown = "\n  ".join(map(str, ids[:_MAX_DAMAGED_SHOWN]))
    more = f"\n  and {len(ids) - _MAX_DAMAGED_SHOWN:,} more" if len(ids) > _MAX_DAMAGED_SHOWN else ""
    return (
        f"Not archived and not deleted, because the body is damaged: {format_count(len(ids), 'delivery')}\n  "
        f"{shown}{more}\nTo delete damaged bodies as well, prune without --archive."
    )


def _prune_deliveries(
    database: Database, before: datetime, archive: Archive | None, *, deliveries: int
) -> tuple[PruneCounts, bool]:
    """Return the counts of the pruned deliveries, and whether no interruption left some."""
    pruned = PruneCounts()
    with progress_bar("Pruning", deliveries) as bar, suppress(KeyboardInterrupt):
        for page in prune_pages(database, before=before, archive=archive, clock=utc_now):
            pruned += page
            bar.update(page.deliveries)
        return pruned, True
    return pruned, False
