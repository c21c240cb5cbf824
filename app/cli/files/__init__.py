"""rapidbridge files: maintenance of files sinks."""

import click

from app.cli.files.compact import compact


@click.group()
def files() -> None:
    """Compact the files of a files sink."""


files.add_command(compact)
