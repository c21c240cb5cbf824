"""rapidbridge migrate: database migrations."""

import click

from app.cli.common.messages import print_message
from app.config.load import read_config
from app.config.settings import Settings
from app.database.engine import Database
from app.plural import format_count
from app.redis.connection import connect_redis
from app.redis.other_receivers import UNNAMED_OPTION
from app.redis.queue import UNNAMED, DeliveryQueue, list_namespaces
from app.redis.spool import Spool
from app.store.inbox import Inbox
from app.store.migrate import find_newer_revision, migrate_as_owner
from app.store.models import Receipt
from app.store.store_database import open_store


@click.command()
@click.option(
    "--adopt-spool",
    "namespace",
    metavar="NAMESPACE",
    help="Also move the spool of this namespace in Redis to the inbox; `unnamed` for an earlier release's.",
)
def migrate(namespace: str | None) -> None:
    """Create or update the tables in DATABASE_URL.

    The role of MIGRATION_DATABASE_URL does it, if that is set. The schema in DATABASE_SCHEMA is created if it
    is missing. The command is safe to run at any time, and several times at once. `rapidbridge doctor` names
    the spools that no worker empties, for --adopt-spool.
    """
    settings = read_config(required=("REDIS_URL", "TRUTO_WEBHOOK_SECRET") if namespace else ()).settings
    database = open_store(settings)
    before, after = migrate_as_owner(database, settings.migration_database_url)
    if find_newer_revision(database):
        click.echo(f"A newer release has migrated the database (revision {after}): nothing to do.")
    elif before == after:
        click.echo(f"The database is up to date (revision {after}).")
    else:
        click.echo(f"The database was updated from revision {before or 'none'} to {after}.")
    if namespace:
        moved, known = _adopt_spool(settings, database, namespace)
        in_inbox = f"; the inbox already had {known:,} of them" if known else ""
        click.echo(f"Moved {format_count(moved, 'delivery')} to the inbox{in_inbox}.")


def _adopt_spool(settings: Settings, database: Database, name: str) -> tuple[int, int]:
    """Move the deliveries of another namespace's spool to the inbox.

    Returns the number of deliveries, and of those that the inbox already had.
    """
    redis = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    known = list_namespaces(redis)
    if name not in (UNNAMED_OPTION, *known):
        shown = ", ".join(sorted((UNNAMED_OPTION, *known)))
        raise click.UsageError(f"--adopt-spool: no namespace {name} in this Redis; known: {shown}.")
    namespace = UNNAMED if name == UNNAMED_OPTION else name
    if namespace != settings.namespace and DeliveryQueue(redis, namespace).count_workers():
        raise click.ClickException(
            f"--adopt-spool: workers of {name} are running, and move its spool to their own database. "
            "If they use this database too, set one REDIS_NAMESPACE for all processes, and restart them."
        )
    spool, inbox, receipts = Spool(redis, namespace, settings), Inbox(database), list[Receipt]()
    # They may be signed with a secret that has been set again since.
    spool.restore_set_aside()
    moved = spool.drain(
        lambda deliveries: receipts.extend(inbox.put(deliveries)),
        sets_aside=namespace == settings.namespace,
    )
    if left := spool.count():
        print_message(
            f"{format_count(left, 'delivery')} left in the spool of {name}: not signed with a secret in "
            "TRUTO_WEBHOOK_SECRET. If the secret was removed, add it again, and repeat this command."
        )
    if set_aside := spool.count_unreadable():
        entries = format_count(set_aside, "entry")
        print_message(
            f"{entries} left in Redis: unreadable, or not signed with a secret in TRUTO_WEBHOOK_SECRET. "
            "If the secret was removed, add it again, and repeat this command. "
            f"Inspect with: redis-cli XRANGE {spool.unreadable_key} - +"
        )
    return moved, sum(receipt.is_duplicate for receipt in receipts)
