"""The audit log: actions of people and programs, such as replays and stops."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import delete, insert, select, tuple_

from app.database.engine import Database
from app.store.bounded_count import ONE, BoundedCount
from app.store.schema import audit_log

_KEPT = timedelta(days=400)
_MAX_SUBJECT_CHARS = 500


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action. actor: "dashboard", for example. address: of the client; "" if it is unknown.

    subject: an id, a name, or a filter. number: of affected items. id: "" until it is stored.
    """

    at: datetime
    actor: str
    address: str
    action: str
    subject: str
    number: BoundedCount = ONE
    id: str = ""


# In the order of the fields.
_COLUMNS = [audit_log.c[name] for name in AuditEntry.__dataclass_fields__]


class AuditLog:
    """The audit log. Every method raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, entry: AuditEntry) -> None:
        """Store an entry; delete entries older than 400 days."""
        row = {
            "id": str(uuid4()),
            "at": entry.at,
            "actor": entry.actor,
            "address": entry.address,
            "action": entry.action,
            "subject": entry.subject[:_MAX_SUBJECT_CHARS],
            "number": entry.number.as_number,
        }
        with self._database.transaction() as connection:
            connection.execute(insert(audit_log), row)
            connection.execute(delete(audit_log).where(audit_log.c.at < entry.at - _KEPT))

    def list_actions(self, action: str, subject: str, *, since: datetime, limit: int) -> Sequence[AuditEntry]:
        """Return the entries of an action on a subject since a time, oldest first."""
        statement = (
            select(*_COLUMNS)
            .where(
                audit_log.c.at >= since,
                audit_log.c.action == action,
                audit_log.c.subject == subject[:_MAX_SUBJECT_CHARS],
            )
            .order_by(audit_log.c.at, audit_log.c.id)
            .limit(limit)
        )
        return list(map(_to_entry, self._database.read(statement)))

    def list_newest(self, *, after: tuple[datetime, str] | None = None, limit: int) -> Sequence[AuditEntry]:
        """Return entries, newest first. after: the time and the id of the entry to continue after."""
        statement = select(*_COLUMNS).order_by(audit_log.c.at.desc(), audit_log.c.id.desc()).limit(limit)
        if after:
            statement = statement.where(tuple_(audit_log.c.at, audit_log.c.id) < after)
        return list(map(_to_entry, self._database.read(statement)))


def _to_entry(row: Any) -> AuditEntry:
    # COUNT_LIMIT + 1 was stored for more.
    return AuditEntry(**{**row._asdict(), "number": BoundedCount.build(row.number)})
