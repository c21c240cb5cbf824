"""rapidbridge keys: the keys that encrypt stored data."""

import click

from app.cli.keys.generate import generate
from app.cli.keys.list import list_keys
from app.cli.keys.rotate import rotate


@click.group()
def keys() -> None:
    """Make, list and rotate the keys that encrypt stored data.

    ENCRYPTION_KEYS has one key or several, separated by commas. The first one encrypts the bodies of
    deliveries, dead records and record errors; all of them decrypt.
    """


for _command in (generate, list_keys, rotate):
    keys.add_command(_command)
