"""What somebody may want to be told: each cause once, and what lasts for as long as it does."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, select, update

from app.database.engine import Store, one_statement, store_faults
from app.database.upsert import insert_into
from app.store.schema import clean, notices


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that happened, or began to last.

    kind: such as "run.settled". subject: the run, sink or webhook it is about. cause: tells it from the next
    of its kind and subject. told: what is sent of it, nothing but what JSON holds.
    """

    kind: str
    subject: str
    cause: str
    at: datetime
    told: Mapping[str, Any]

    @property
    def id(self) -> UUID:
        """Made of kind, subject and cause alone: whoever finds the same again makes the same notice."""
        # As JSON: joined by anything else, two could be made to look alike.
        name = json.dumps([clean(part) for part in (self.kind, self.subject, self.cause)])
        return UUID(bytes=hashlib.sha256(name.encode()).digest()[:16])


class Notices:
    """The notices. Every method is one transaction and raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def note(self, notice: Notice) -> bool:
        """Keep a notice of what happened; False where it is there already."""
        return self._insert(notice, over_at=notice.at)

    def begin(self, notice: Notice) -> bool:
        """Keep a notice of what lasts; False where it is there already, or another like it lasts."""
        return self._insert(notice, over_at=None)

    def end(self, kind: str, subject: str, *, now: datetime) -> bool:
        """Note that what lasted is over; False where nothing did."""
        statement = (
            update(notices)
            .where(notices.c.kind == kind, notices.c.subject == subject, notices.c.over_at.is_(None))
            .values(over_at=now)
        )
        with store_faults(), one_statement(self._store) as connection:
            ended: int = connection.execute(statement).rowcount
            return ended > 0

    def lasting(self, kind: str) -> list[Notice]:
        """Return what lasts of a kind, oldest first."""
        return self._read(notices.c.kind == kind, notices.c.over_at.is_(None))

    def of(self, subject: str, *, most: int) -> list[Notice]:
        """Return the first notices about a run, sink or webhook, oldest first."""
        return self._read(notices.c.subject == subject, most=most)

    def _insert(self, notice: Notice, *, over_at: datetime | None) -> bool:
        with store_faults(), one_statement(self._store) as connection:
            return add_notice(connection, notice, over_at=over_at)

    def _read(self, *conditions: Any, most: int | None = None) -> list[Notice]:
        statement = (
            select(notices)
            .where(*conditions)
            .order_by(notices.c.at, notices.c.kind, notices.c.id)
            .limit(most)
        )
        with store_faults(), one_statement(self._store) as connection:
            return [notice_of(row) for row in connection.execute(statement).mappings()]


def add_notice(connection: Connection, notice: Notice, *, over_at: datetime | None) -> bool:
    """Keep a notice as part of the caller's transaction; False where it is there already."""
    row = {
        "id": notice.id,
        **{name: getattr(notice, name) for name in ("kind", "subject", "cause", "at")},
        # Not escaped: what no database holds is replaced on its way in, and comes out fit to be sent.
        "told": json.dumps(notice.told, ensure_ascii=False, allow_nan=False),
        "over_at": over_at,
    }
    # Whatever it conflicts with: its own id, or the one that lasts.
    statement = insert_into(connection.dialect.name, notices).on_conflict_do_nothing()
    return bool(connection.execute(statement.returning(notices.c.id), row).all())


def notice_of(row: RowMapping) -> Notice:
    """Return a row of the table, or one that holds its columns, as a notice."""
    known = {name: row[name] for name in ("kind", "subject", "cause", "at")}
    return Notice(**known, told=json.loads(row["told"]))
