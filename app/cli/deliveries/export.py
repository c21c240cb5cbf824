"""rapidbridge deliveries export."""

import gzip
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import click

from app.cli.common.options import build_delivery_filter, filter_options
from app.cli.common.output_file import open_standard_output
from app.cli.common.progress import progress_bar
from app.cli.deliveries.asking import open_interactive_store
from app.store.delivery_export import DeliveryExport, write_line
from app.store.delivery_filter import count_deliveries


@click.command()
@filter_options
@click.option(
    "--output",
    "target",
    default="-",
    show_default=True,
    metavar="FILE",
    help="Where to; - is standard output. Compressed if its name ends in .gz.",
)
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
def export(target: str, *, force: bool, **options: Any) -> None:
    """Write deliveries with their bodies as JSON Lines, oldest first: your customers' data.

    A file has its name only once it is whole. Deliveries whose bodies were pruned are left out, and counted.

    \b
    Examples:
      rapidbridge deliveries export --run 1f276317-1c44-4ae8-b2e2-f7b8bc0f6aa5 > run.jsonl
      rapidbridge deliveries export --since 7d --output week.jsonl.gz
    """
    delivery_filter = build_delivery_filter(options)
    store = open_interactive_store()
    exporter = DeliveryExport(store, delivery_filter)
    # A count takes as long as it takes: only for those who see the bar.
    total = (
        sum(group.deliveries for group in count_deliveries(store, delivery_filter))
        if sys.stderr.isatty()
        else 0
    )
    written = 0
    with _open_output(target, force=force) as file, progress_bar("Exporting", total) as bar:
        for delivery in exporter.read_deliveries():
            if delivery:
                file.write(write_line(delivery))
                written += 1
            bar.update(1)
    click.echo(f"{written:,} deliveries exported.", err=True)
    if exporter.pruned:
        click.echo(f"{exporter.pruned:,} left out: their bodies were pruned.", err=True)
    for damaged in exporter.damaged:
        click.echo(f"{damaged} left out: its body is damaged in the store.", err=True)
    if exporter.damaged:
        sys.exit(1)


@contextmanager
def _open_output(target: str, *, force: bool) -> Iterator[IO[bytes]]:
    if target == "-":
        with open_standard_output() as file:
            yield file
        return
    path, part = Path(target), Path(target + ".part")
    if path.exists() and not force:
        raise click.UsageError(f"{target} is there already: name another, or overwrite it with --force.")
    try:
        with _open_private_file(part) as raw, _wrap_gzip(raw, path) as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise click.UsageError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)


def _open_private_file(path: Path) -> IO[bytes]:
    # Customers' data: for nobody else's eyes.
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))


def _wrap_gzip(raw: IO[bytes], path: Path) -> IO[bytes]:
    if path.suffix != ".gz":
        return raw
    return cast(IO[bytes], gzip.GzipFile(path.stem, "wb", compresslevel=6, fileobj=raw))
