"""Import of a file of exported deliveries or bare bodies."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.common.audit import audit
from app.cli.common.messages import print_message
from app.cli.common.progress import progress_bar
from app.cli.replay.formatting import LimitedWarnings, print_lines
from app.config.load import Config
from app.database.engine import Database
from app.plural import format_count
from app.replay.importer import ImportCounts, Importer
from app.store.inbox import Inbox

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click names its type nowhere else


def import_file(
    database: Database,
    config: Config,
    source: BufferedReader,
    *,
    secret: str,
    other_secrets: Sequence[str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import the lines of a file and print the counts; exits 1 after skipped lines.

    secret: signs bare bodies; "" without one. other_secrets: more that may have signed pruned bodies.
    """
    path = Path(source.name)
    if not dry_run:
        audit(database, "delivery.import", path.name)
    is_finished = False
    with progress_bar("importing", path.stat().st_size if path.is_file() else 0) as bar:
        importer = Importer(
            Inbox(database),
            secret=secret,
            other_secrets=other_secrets,
            max_body_bytes=config.settings.max_body_bytes,
            dry_run=dry_run,
            observer=_ImportProgress(bar, source if path.is_file() else None),
        )
        with suppress(KeyboardInterrupt):
            importer.import_lines(source)
            is_finished = True
    counts = importer.counts
    print_lines(
        [_format_import(counts, dry_run=dry_run)],
        {"is_finished": is_finished, **counts.as_json()},
        as_json=as_json,
    )
    if not is_finished:
        print_message(
            "Interrupted. Run the same command again to import the rest: known deliveries stay as they are."
        )
    if counts.restored and not dry_run:
        print_message(_format_restored(config))
    if counts.has_problems or not is_finished:
        sys.exit(1)


class _ImportProgress(LimitedWarnings):
    """Shows an import on a progress bar, by the bytes read of a file; an `ImportObserver`."""

    def __init__(self, bar: "ProgressBar[int]", file: BufferedReader | None) -> None:
        super().__init__()
        self._bar = bar
        self._file = file

    def on_stored(self) -> None:
        self._bar.update(self._file.tell() - self._bar.pos if self._file else 0)

    def on_skipped(self, line_number: int, reason: str) -> None:
        self.print(f"line {line_number:,}: {reason}")


def _format_import(counts: ImportCounts, *, dry_run: bool) -> str:
    parts = [format_count(counts.new, "new delivery")]
    parts += [f"{counts.quarantined:,} of them unreadable"] if counts.quarantined else []
    parts += [f"{format_count(counts.restored, 'pruned body')} restored"] if counts.restored else []
    parts += [format_count(counts.duplicates, "duplicate")]
    parts += [f"{counts.erased:,} erased (stays erased)"] if counts.erased else []
    parts += [f"{format_count(counts.skipped, 'line')} skipped"]
    return f"{'Dry run: ' if dry_run else ''}{', '.join(parts)}."


def _format_restored(config: Config) -> str:
    days = config.settings.retention_days
    again = f"RETENTION_DAYS={days} prunes the old ones again within an hour. " if days else ""
    return (
        f"The restored deliveries keep their states. {again}To write them to the sinks again, replay them "
        "with filters, such as: rapidbridge replay --since 90d --state settled"
    )
