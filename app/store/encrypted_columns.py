"""The text columns whose values are encrypted if a key is set."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table

from app.encryption import Keyring
from app.store.schema import dead_records, record_errors

ENCRYPTED_TEXTS = {dead_records: ("raw",), record_errors: ("raw",)}
# Equal labels stay equal: the errors of a run are grouped by their message.
ENCRYPTED_LABELS = {record_errors: ("message",)}


def encrypt_row(keyring: Keyring, table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of one of these tables as it is stored. row: with its primary key."""
    encrypted = dict(row)
    for name in ENCRYPTED_TEXTS[table]:
        encrypted[name] = keyring.encrypt_text(row[name], build_text_context(table, row))
    for name in ENCRYPTED_LABELS.get(table, ()):
        encrypted[name] = keyring.encrypt_label(row[name], build_label_context(table, name))
    return encrypted


def build_text_context(table: Table, row: Mapping[str, Any]) -> bytes:
    """Return the context of the encrypted text of a row, made of its primary key; see Keyring."""
    key = "\0".join(str(row[column.name]) for column in table.primary_key)
    return f"{table.name}\0{key}".encode("utf-8", "surrogatepass")


def build_label_context(table: Table, column: str) -> bytes:
    """Return the context of all labels of a column; see Keyring."""
    return f"{table.name}\0{column}".encode()
