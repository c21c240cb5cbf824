"""Entries in the audit log for the commands that act."""

import getpass
import socket
from contextlib import suppress

from app.cli.common.messages import print_message
from app.clock import utc_now
from app.config.settings import read_environment, read_settings
from app.database.engine import Database
from app.database.inspection import missing_file
from app.errors import ConfigError, StoreUnavailable
from app.store.audit_log import AuditEntry, AuditLog
from app.store.bounded_count import ONE, BoundedCount
from app.store.operations import Requester
from app.store.store_database import open_store

_ACTOR = "command line"
_LOCK_TIMEOUT_S = 2.0


def make_requester() -> Requester:
    """Return the origin of an operation that a command starts."""
    return Requester(_ACTOR, describe_operator())


def describe_operator() -> str:
    """Return the operating system's user and host, such as "ada@worker-1"."""
    user = "somebody"
    # A container may run as a user without a name.
    with suppress(KeyError, OSError, ImportError):
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def audit(database: Database, action: str, subject: str, number: BoundedCount = ONE) -> None:
    """Record an action before it is carried out; raises StoreUnavailable.

    action, subject, number: as in `AuditEntry`.
    """
    AuditLog(database).add(AuditEntry(utc_now(), _ACTOR, describe_operator(), action, subject, number))


def audit_at_truto(action: str, subject: str) -> None:
    """Record an action that Truto has carried out, or print a message if the database cannot store it.

    Afterwards: an action at Truto needs no database, and is not delayed by one that is unavailable.
    """
    try:
        settings = read_settings(read_environment())
        if path := missing_file(settings.database_url):
            raise StoreUnavailable(f"the database file {path} does not exist")
        database = open_store(settings, lock_timeout_s=_LOCK_TIMEOUT_S)
        try:
            audit(database, action, subject)
        finally:
            database.close()
    except (ConfigError, StoreUnavailable) as error:
        print_message(f"Done at Truto, but not recorded in the audit log: {error}")
