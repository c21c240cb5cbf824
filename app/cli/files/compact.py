"""rapidbridge files compact."""

import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import print_message
from app.cli.common.options import dry_run_option, json_option
from app.cli.common.output import print_json
from app.cli.common.progress import progress_bar
from app.cli.common.times import parse_time_option
from app.cli.sinks.known import check_sink_name
from app.clock import utc_now
from app.config.load import read_config
from app.config.sinks import FilesSinkConfig
from app.plural import format_count
from app.sinks.files.compaction import CompactionCounts, Compactor
from app.sinks.files.sink import open_file_store
from app.store.loads import Loads

# Longer than the lease of a load: a worker that lost it writes no file any more.
_MIN_AGE = timedelta(minutes=10)


@click.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--older-than",
    metavar="AGE",
    callback=parse_time_option,
    help="Merge files written before this age or time: 1d, 2026-11-25.  [default: 10m, the minimum]",
)
@dry_run_option
@json_option
def compact(name: str, *, older_than: datetime | None, dry_run: bool, as_json: bool) -> None:
    """Merge the files of a sink and drop superseded versions.

    The files of each partition become one. Of each record, the newest data and the newest deletion stay. A
    new file is complete before the merged ones are removed: a reader may see a row twice meanwhile, and
    misses none. Workers may write loads at the same time, and the command may be interrupted and run again.

    Exits 1 if it is interrupted, or a folder was left unchanged because a file is unreadable or was removed.

    \b
    Examples:
      rapidbridge files compact lake --dry-run
      rapidbridge files compact lake --older-than 1d
    """
    config = read_config()
    check_sink_name(config, name)
    sink = config.routes.sinks[name]
    if not isinstance(sink, FilesSinkConfig):
        message = f"{name} is a {sink.type} sink; only files sinks have files to compact."
        raise click.BadParameter(message, param_hint="NAME")
    loads = Loads(open_interactive_database(config.settings))
    compactor = Compactor(
        open_file_store(sink), compression=sink.compression, list_open_loads=loads.list_open_ids
    )
    before = min(older_than or utc_now(), utc_now() - _MIN_AGE)
    counts, is_finished = _compact_folders(compactor, before, dry_run=dry_run)
    if as_json:
        print_json({"sink": name, "before": before, "is_dry_run": dry_run, **asdict(counts)})
    else:
        click.echo(_describe(counts, dry_run=dry_run))
    if counts.skipped:
        folders = format_count(counts.skipped, "folder")
        print_message(f"Unchanged: {folders} with a file that is unreadable or was removed meanwhile.")
    if not is_finished:
        print_message("Interrupted. Run the same command again to compact the rest.")
    if counts.skipped or not is_finished:
        sys.exit(1)


def _compact_folders(
    compactor: Compactor, before: datetime, *, dry_run: bool
) -> tuple[CompactionCounts, bool]:
    """Return the counts, and whether no interruption left some folders."""
    counts, folders = CompactionCounts(), compactor.list_folders()
    with progress_bar("Compacting", len(folders)) as bar, suppress(KeyboardInterrupt):
        for folder in folders:
            counts += compactor.compact(folder, before=before, dry_run=dry_run)
            bar.update(1)
        return counts, True
    return counts, False


def _describe(counts: CompactionCounts, *, dry_run: bool) -> str:
    verb = "Would merge" if dry_run else "Merged"
    dropped = counts.rows_before - counts.rows_after
    return (
        f"{verb} {format_count(counts.files_before, 'file')} into {counts.files_after:,}: "
        f"{counts.bytes_before:,} bytes into {counts.bytes_after:,}, "
        f"{format_count(dropped, 'superseded row')} dropped."
    )
