"""rapidbridge keys rotate."""

import sys
from contextlib import suppress

import click

from app.cli.common.audit import audit
from app.cli.common.clients import open_interactive_database
from app.cli.common.messages import print_message
from app.cli.common.options import dry_run_option
from app.cli.common.progress import progress_bar
from app.config.settings import Settings, read_environment, read_settings
from app.database.engine import Database
from app.plural import format_count
from app.redis.connection import connect_redis
from app.redis.spool import Spool
from app.store.bounded_count import BoundedCount
from app.store.encryption_keys import EncryptionKeys, refuse_missing_keys
from app.store.key_rotation import KeyRotation, RotatedRows


@click.command()
@dry_run_option
def rotate(*, dry_run: bool) -> None:
    """Encrypt all stored data with the first key of ENCRYPTION_KEYS.

    Run it after the first key has changed and all processes were restarted, also after the very first key was
    set. With `off` as the first entry, it decrypts. The receiver goes on meanwhile. The command may be
    interrupted and run again at any time. At the end, it names the keys that can be removed.

    Exits 1 if it is interrupted, or if a key must stay.

    \b
    Example:
      rapidbridge keys rotate
    """
    settings = read_settings(read_environment(), required=("ENCRYPTION_KEYS", "REDIS_URL"))
    database = open_interactive_database(settings)
    refuse_missing_keys(database)
    keyring = settings.encryption_keys
    target = f"key {keyring.current.id}" if keyring.current else "no key"
    number = KeyRotation(database).count()
    if dry_run:
        click.echo(f"Would store {format_count(number, 'row')} again, with {target}.")
        return
    if number:
        audit(database, "keys.rotate", target, BoundedCount(number))
    rows, is_finished = _rotate(database, number)
    click.echo(f"Stored {format_count(rows.rotated, 'row')} again, with {target}.")
    if not is_finished:
        print_message("Interrupted. Run the same command again to continue.")
    if not is_finished or not _remove_old_keys(settings, database, damaged=rows.damaged):
        sys.exit(1)


def _rotate(database: Database, number: int) -> tuple[RotatedRows, bool]:
    """Return the counts of the rotated rows, and whether no interruption left some."""
    rows = RotatedRows()
    with progress_bar("Rotating", number) as bar, suppress(KeyboardInterrupt):
        for page in KeyRotation(database).rotate():
            rows += page
            bar.update(page.rotated)
        return rows, True
    return rows, False


def _remove_old_keys(settings: Settings, database: Database, *, damaged: int) -> bool:
    """Forget the keys that nothing is encrypted with any more; return False if one must stay."""
    keys, current = EncryptionKeys(database), database.keyring.current
    # A key that only encrypts spooled deliveries is not recorded.
    known = {*database.keyring.ids, *(key.id for key in keys.list_in_use())}
    old = sorted(known - ({current.id} if current else set()))
    if not old:
        return True
    shown = ", ".join(old)
    if damaged:
        print_message(
            f"{format_count(damaged, 'row')} cannot be decrypted: damaged. {shown} must stay in "
            "ENCRYPTION_KEYS until they are pruned."
        )
        return False
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    if waiting := Spool(redis, settings.namespace, settings).count_outdated_keys():
        print_message(
            f"{format_count(waiting, 'delivery')} in Redis still encrypted with another key: {shown} must "
            "stay in ENCRYPTION_KEYS. When the spool is empty (rapidbridge doctor), run: "
            "rapidbridge keys rotate"
        )
        return False
    if left := KeyRotation(database).count():
        print_message(
            f"{format_count(left, 'row')} were stored with another key meanwhile: a process still has an "
            "older ENCRYPTION_KEYS. Restart all processes, then run: rapidbridge keys rotate"
        )
        return False
    keys.remove(old)
    click.echo(f"No stored data needs {shown} any more: remove it from ENCRYPTION_KEYS.")
    return True
