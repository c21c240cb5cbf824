"""Replace the id of an erased account in texts about it: requests, actions, notifications and reasons."""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, Table, Text, and_, func, or_, select, tuple_, update

from app.database.engine import Database
from app.store.schema import (
    dead_records,
    deliveries,
    delivery_attempts,
    metadata,
    record_errors,
    runs,
    sink_outcomes,
    syncs,
)
from app.store.schema.column_types import SafeText

_PAGE_SIZE = 500
# Erased by account and by delivery, in app/store/erasure.py.
_ERASED_BY_KEY = {deliveries, delivery_attempts, dead_records, record_errors, sink_outcomes, syncs}
_ERASED_COLUMNS = {runs.c.integrated_account_id, runs.c.run}


_MARK = "erased:"


def is_pseudonym(account: str) -> bool:
    """Whether an account's id was replaced by its erasure."""
    return account.startswith(_MARK)


def make_pseudonym(account: str) -> str:
    """Return the name that replaces an account's id: always the same, without showing the id."""
    return _MARK + hashlib.sha256(account.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def replace_names(database: Database, account: str, *, dry_run: bool) -> Iterator[int]:
    """Replace an account's id in all tables without rows of deliveries; yield the number of rows of a page.

    dry_run: only count. Raises StoreUnavailable.
    """
    for table in metadata.sorted_tables:
        columns = [column for column in table.c if _may_name_accounts(column)]
        if table not in _ERASED_BY_KEY and columns:
            yield from _replace_in_table(database, table, columns, account, dry_run=dry_run)


def _may_name_accounts(column: Column[Any]) -> bool:
    is_text = isinstance(column.type, SafeText | Text)
    return is_text and not column.primary_key and column not in _ERASED_COLUMNS


def _replace_in_table(
    database: Database, table: Table, columns: list[Column[Any]], account: str, *, dry_run: bool
) -> Iterator[int]:
    key = list(table.primary_key)
    spellings = {account, json.dumps(account)[1:-1]}
    mentions = or_(*(func.replace(column, name, "") != column for column in columns for name in spellings))
    page = select(*key, *columns).where(mentions).order_by(*key).limit(_PAGE_SIZE)
    # Locked, so that no change of another process is lost.
    page = page if dry_run else page.with_for_update()
    after: tuple[Any, ...] | None = None
    while True:
        with database.transaction() as connection:
            rows = connection.execute(page.where(tuple_(*key) > after) if after else page).all()
            changes = [(tuple(row[: len(key)]), _replace_in_row(row[len(key) :], account)) for row in rows]
            changed = [
                (row_key, new)
                for (row_key, new), row in zip(changes, rows, strict=True)
                if new != tuple(row[len(key) :])
            ]
            for row_key, new in () if dry_run else changed:
                is_row = and_(*(column == value for column, value in zip(key, row_key, strict=True)))
                values = {column.name: text for column, text in zip(columns, new, strict=True)}
                connection.execute(update(table).where(is_row).values(values))
        yield len(changed)
        if len(rows) < _PAGE_SIZE:
            return
        after = changes[-1][0]


def _replace_in_row(texts: Any, account: str) -> tuple[Any, ...]:
    return tuple(text and replace_name(text, account) for text in texts)


def replace_name(text: str, account: str) -> str:
    """Replace an account's id in a text or in the strings of a JSON text; longer words stay."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if not isinstance(value, dict | list):
        return _replace_in_text(text, account)
    replaced = _replace_in_value(value, account)
    return text if replaced == value else json.dumps(replaced, ensure_ascii=False)


def _replace_in_text(text: str, account: str) -> str:
    return re.sub(rf"(?<![\w-]){re.escape(account)}(?![\w-])", make_pseudonym(account), text)


def _replace_in_value(value: Any, account: str) -> Any:
    if isinstance(value, str):
        return _replace_in_text(value, account)
    if isinstance(value, list):
        return [_replace_in_value(item, account) for item in value]
    if isinstance(value, dict):
        return {
            _replace_in_value(name, account): _replace_in_value(item, account) for name, item in value.items()
        }
    return value
