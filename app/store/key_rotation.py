"""Encryption of stored data with the current key, after the keys have changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, LargeBinary, Table, and_, func, not_, or_, select, tuple_, update

from app.database.engine import Database
from app.encryption import ENCRYPTED_TEXT, GCM_MARK
from app.store.encrypted_columns import (
    ENCRYPTED_LABELS,
    ENCRYPTED_TEXTS,
    build_label_context,
    build_text_context,
    encrypt_row,
)
from app.store.encryption_keys import EncryptionKeys
from app.store.schema import deliveries
from app.store.stored_body import build_body_context

_PAGE_ROWS = 500
# Limit of one transaction in memory; the last body may exceed it.
_MAX_PAGE_BYTES = 8 * 1024 * 1024
# Enough to notice that another process has replaced a body.
_COMPARED_BYTES = 64


@dataclass(frozen=True, slots=True)
class RotatedRows:
    """Numbers of rows that were encrypted anew, and of damaged ones, which stay as they are."""

    rotated: int = 0
    damaged: int = 0

    def __add__(self, other: "RotatedRows") -> "RotatedRows":
        return RotatedRows(self.rotated + other.rotated, self.damaged + other.damaged)


class KeyRotation:
    """Bodies, dead records and record errors that are not stored with the current key.

    They may change meanwhile, and several processes may rotate at once. Every method raises
    StoreUnavailable, and EncryptionKeyMissing if the key of a value is not set.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keyring = database.keyring

    def count(self) -> int:
        """Return the number of rows that are not stored with the current key."""
        tables = [(deliveries, self._has_outdated_body())]
        tables += [(table, self._has_outdated_text(table)) for table in ENCRYPTED_TEXTS]
        statements = [select(func.count()).select_from(table).where(where) for table, where in tables]
        return sum(int(self._database.read(statement)[0][0]) for statement in statements)

    def rotate(self) -> Iterator[RotatedRows]:
        """Encrypt all rows with the current key, or decrypt them without one; yield a count a page."""
        EncryptionKeys(self._database).register()
        yield from self._rotate_bodies()
        for table in ENCRYPTED_TEXTS:
            yield from self._rotate_texts(table)

    def _has_outdated_body(self) -> ColumnElement[bool]:
        prefix = self._keyring.prefix
        if not prefix:
            return _start_of_body(len(GCM_MARK)) == GCM_MARK
        return and_(func.length(deliveries.c.body) > 0, _start_of_body(len(prefix)) != prefix)

    def _has_outdated_text(self, table: Table) -> ColumnElement[bool]:
        text_prefix, label_prefix = self._keyring.text_prefixes
        prefixes = [(name, text_prefix) for name in ENCRYPTED_TEXTS[table]]
        prefixes += [(name, label_prefix) for name in ENCRYPTED_LABELS.get(table, ())]
        if self._keyring.current is None:
            return or_(*(table.c[name].startswith(ENCRYPTED_TEXT) for name, _ in prefixes))
        return or_(
            *(and_(table.c[name] != "", not_(table.c[name].startswith(prefix))) for name, prefix in prefixes)
        )

    def _rotate_bodies(self) -> Iterator[RotatedRows]:
        order = (deliveries.c.received_at, deliveries.c.id)
        page = select(*order, func.length(deliveries.c.body).label("size")).where(self._has_outdated_body())
        page = page.order_by(*order).limit(_PAGE_ROWS)
        rows = self._database.read(page)
        while rows:
            for ids in _group_by_size(rows):
                yield self._rotate_body_group(ids)
            rows = self._database.read(page.where(tuple_(*order) > (rows[-1].received_at, rows[-1].id)))

    def _rotate_body_group(self, ids: Sequence[UUID]) -> RotatedRows:
        read = select(deliveries.c.id, deliveries.c.body).where(deliveries.c.id.in_(ids))
        stored = {row.id: bytes(row.body) for row in self._database.read(read) if row.body}
        changed: dict[UUID, bytes] = {}
        damaged = 0
        for id_, body in stored.items():
            context = build_body_context(id_)
            try:
                changed[id_] = self._keyring.encrypt(self._keyring.decrypt(body, context), context)
            except ValueError:
                damaged += 1
        rotated = 0
        with self._database.transaction() as connection:
            # Ordered by key, so that two processes cannot deadlock.
            for id_ in sorted(changed):
                # A body that was pruned or erased meanwhile must not come back.
                is_unchanged = _start_of_body(_COMPARED_BYTES) == stored[id_][:_COMPARED_BYTES]
                change = update(deliveries).where(deliveries.c.id == id_, is_unchanged)
                rotated += connection.execute(change.values(body=changed[id_])).rowcount
        return RotatedRows(rotated, damaged)

    def _rotate_texts(self, table: Table) -> Iterator[RotatedRows]:
        keys = list(table.primary_key)
        names = [*ENCRYPTED_TEXTS[table], *ENCRYPTED_LABELS.get(table, ())]
        page = select(*keys, *(table.c[name] for name in names)).where(self._has_outdated_text(table))
        page = page.order_by(*keys).limit(_PAGE_ROWS)
        rows = self._database.read(page)
        while rows:
            rotated = damaged = 0
            with self._database.transaction() as connection:
                for row in rows:
                    try:
                        values = self._encrypt_anew(table, row._mapping)
                    except ValueError:
                        damaged += 1
                        continue
                    is_unchanged = [table.c[name] == row._mapping[name] for name in names]
                    is_row = [key == row._mapping[key.name] for key in keys]
                    change = update(table).where(*is_row, *is_unchanged)
                    rotated += connection.execute(change.values(values)).rowcount
            yield RotatedRows(rotated, damaged)
            last = tuple(rows[-1]._mapping[key.name] for key in keys)
            rows = self._database.read(page.where(tuple_(*keys) > last))

    def _encrypt_anew(self, table: Table, row: Mapping[Any, Any]) -> dict[str, Any]:
        plain = {str(name): value for name, value in row.items()}
        for name in ENCRYPTED_TEXTS[table]:
            plain[name] = self._keyring.decrypt_text(row[name], build_text_context(table, row))
        for name in ENCRYPTED_LABELS.get(table, ()):
            plain[name] = self._keyring.decrypt_text(row[name], build_label_context(table, name))
        encrypted = encrypt_row(self._keyring, table, plain)
        return {name: encrypted[name] for name in encrypted if name not in table.primary_key.columns}


def _start_of_body(size: int) -> ColumnElement[bytes]:
    return func.substr(deliveries.c.body, 1, size, type_=LargeBinary)


def _group_by_size(rows: Sequence[Any]) -> Iterator[list[UUID]]:
    ids, size = list[UUID](), 0
    for row in rows:
        if ids and size + row.size > _MAX_PAGE_BYTES:
            yield ids
            ids, size = [], 0
        ids.append(row.id)
        size += row.size
    if ids:
        yield ids
