"""rapidbridge keys generate."""

import base64
import secrets
import sys

import click

from app.encryption import KEY_BYTES, EncryptionKey


@click.command()
def generate() -> None:
    """Print a new key for ENCRYPTION_KEYS.

    Keep a copy in a safe place: without its key, stored data cannot be read. The key is printed to standard
    output and everything else to standard error.

    \b
    Examples:
      rapidbridge keys generate
      heroku config:set ENCRYPTION_KEYS="$(rapidbridge keys generate)"
    """
    secret = secrets.token_bytes(KEY_BYTES)
    click.echo(base64.b64encode(secret))
    if sys.stderr.isatty():
        key = EncryptionKey.build(secret)
        click.echo(f"Key {key.id}. Set it first in ENCRYPTION_KEYS, with the older keys behind it.", err=True)
