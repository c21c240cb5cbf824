"""rapidbridge deliveries export."""

import sys
from typing import Any

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.filters import FilterCommand, build_delivery_filter, filter_options
from app.cli.common.output_file import open_output
from app.cli.common.progress import progress_bar
from app.plural import format_count
from app.store.delivery_export import DeliveryExport
from app.store.delivery_filter import count_deliveries


@click.command(cls=FilterCommand)
@filter_options
@click.option(
    "--output",
    "target",
    default="-",
    show_default=True,
    metavar="FILE",
    help="File to write; - is standard output. Compressed if its name ends in .gz.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def export(target: str, *, force: bool, **options: Any) -> None:
    """Write deliveries and their bodies as JSON Lines.

    The oldest delivery comes first. The output holds your customers' data. A file gets its name once it is
    complete. Deliveries whose bodies were pruned are left out and counted.

    Exits 1 if a body is damaged.

    \b
    Examples:
      rapidbridge deliveries export --run 1f276317 > run.jsonl
      rapidbridge deliveries export --since 7d --output week.jsonl.gz
    """
    delivery_filter = build_delivery_filter(options)
    database = open_interactive_database()
    exporter = DeliveryExport(database, delivery_filter)
    # Counting many deliveries is slow: count them only for a visible progress bar.
    total = (
        sum(group.deliveries for group in count_deliveries(database, delivery_filter))
        if sys.stderr.isatty()
        else 0
    )
    exported = 0
    with open_output(target, force=force) as file, progress_bar("Exporting", total) as bar:
        for line in exporter.read_lines():
            if line:
                file.write(line)
                exported += 1
            bar.update(1)
    click.echo(f"{format_count(exported, 'delivery')} exported.", err=True)
    if exporter.pruned:
        click.echo(f"{format_count(exporter.pruned, 'delivery')} left out: the bodies were pruned.", err=True)
    for delivery_id in exporter.damaged:
        click.echo(f"{delivery_id} left out: the body is damaged in the database.", err=True)
    if exporter.damaged:
        sys.exit(1)
