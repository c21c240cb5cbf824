"""rapidbridge keys list."""

from dataclasses import asdict

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.options import json_option
from app.cli.common.output import format_time, print_json
from app.cli.common.tables import format_table
from app.config.settings import read_environment, read_settings
from app.store.encryption_keys import EncryptionKeys, KeyInUse


@click.command("list")
@json_option
def list_keys(*, as_json: bool) -> None:
    """List the keys of stored data by their ids, with their use.

    A key that decrypts can be removed from ENCRYPTION_KEYS once `rapidbridge keys rotate` no longer lists it.

    \b
    Example:
      rapidbridge keys list
    """
    settings = read_settings(read_environment())
    keyring = settings.encryption_keys
    in_use = EncryptionKeys(open_interactive_database(settings)).list_in_use()
    unused = [key_id for key_id in keyring.ids if key_id not in {key.id for key in in_use}]
    if as_json:
        current = keyring.current.id if keyring.current else None
        print_json({"current": current, "in_use": [asdict(key) for key in in_use], "unused": unused})
        return
    if not in_use and not unused:
        click.echo("Stored data is not encrypted. To make a key, run: rapidbridge keys generate")
        return
    rows = [[key.id, _describe(key), format_time(key.first_used_at)] for key in in_use]
    rows += [[key_id, "set, and not used yet", "-"] for key_id in unused]
    click.echo("\n".join(format_table(["key", "use", "first used (UTC)"], rows)))


def _describe(key: KeyInUse) -> str:
    if key.is_current:
        return "encrypts and decrypts"
    return "decrypts" if key.is_configured else "missing in ENCRYPTION_KEYS"
