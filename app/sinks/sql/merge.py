"""Merge of a record into its row, equal in every order; pure.

`_version` and `_vseq` are the version of the row: of its deletion while it is deleted, else of its data. A
deletion older than the data has no effect, so only a deleted row needs a second version: that of its data is
in `_data_version` and `_data_vseq`. They are NULL if `data` is only the deletion's own payload. A row that a
run did not see is deleted, and the two versions are equal.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from app.sinks.sql.delete_tracking import SEEN_AT

# The columns that every table is created with, and their types.
CREATED_COLUMNS = {
    "_account": "text",
    "_key": "text",
    "data": "json",
    "_version": "timestamp",
    "_vseq": "text",
    "_job": "text",
    "_run": "text",
    "_method": "text",
    "_deleted_at": "timestamp",
    "_first_seen_at": "timestamp",
    "_changed_at": "timestamp",
    "_written_at": "timestamp",
    "_meta": "json",
}
NULLABLE_COLUMNS = ("_deleted_at", "_meta")
# Columns that tables of earlier releases lack.
ADDED_COLUMNS = {"_data_version": "timestamp", "_data_vseq": "text"}
# Compared by bytes, in every locale.
COLLATED_COLUMNS = ("_account", "_key", "_vseq", "_data_vseq")
_VERSION_COLUMNS = ("_version", "_vseq", "_job", "_run", "_method")
_RECORD_COLUMNS = ("_account", "_key", "data", *_VERSION_COLUMNS, "_deleted_at")
_TRACKING_COLUMNS = ("_first_seen_at", "_changed_at", "_written_at", "_meta")


def quote(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(value: str) -> str:
    """Return a text as an SQL literal, for a statement of a driver that reads "%" as a placeholder."""
    return "'" + value.replace("'", "''").replace("%", "%%") + "'"


def list_column_names(columns: Iterable[str]) -> list[str]:
    """Return the columns of an inserted row. columns: of the route."""
    return [*_RECORD_COLUMNS, *_TRACKING_COLUMNS, *columns]


def build_conflict_clause(table: str, columns: Iterable[str], *, is_deletion: bool) -> str:
    """Return the clause that updates rows with older data, or with an older deletion."""
    merge = _build_merge(columns, old=f"{quote(table)}.{{}}", new="excluded.{}", is_deletion=is_deletion)
    assignments = ", ".join(f"{quote(column)} = {value}" for column, value in merge.values.items())
    return f'ON CONFLICT ("_account", "_key") DO UPDATE SET {assignments} WHERE {merge.condition}'


# MySQL assigns from left to right, and later expressions read the new values. In this order, each expression
# has the result that it has with the old values: the greater of two pairs has the greater first part.
_ASSIGNED_LAST = ("_data_vseq", "_data_version", "_deleted_at", "_vseq", "_version", SEEN_AT)


def build_duplicate_key_clause(columns: Iterable[str], *, is_deletion: bool) -> str:
    """Return the clause of MySQL with the result of `build_conflict_clause`."""
    merge = _build_merge(columns, old="{}", new="VALUES({})", is_deletion=is_deletion)
    if SEEN_AT in merge.values:
        # The first of three columns that are NULL together decides: after it, no sight is recognized.
        for column, decided in (("_data_version", "_data_vseq"), ("_deleted_at", "_data_version")):
            merge.values[column] = f"CASE WHEN {quote(decided)} IS NOT NULL THEN {merge.values[column]} END"
    ordered = [column for column in merge.values if column not in _ASSIGNED_LAST]
    ordered += [column for column in _ASSIGNED_LAST if column in merge.values]
    # Another unique index leads to the row of another record, which a key of NULL protects.
    is_same = '"_account" = VALUES("_account") AND "_key" = VALUES("_key")'
    assignments = [f'"_key" = CASE WHEN {is_same} THEN "_key" END']
    assignments += [
        f"{quote(column)} = CASE WHEN {merge.condition} THEN {merge.values[column]} ELSE {quote(column)} END"
        for column in ordered
    ]
    return f"ON DUPLICATE KEY UPDATE {', '.join(assignments)}"


class _Merge(NamedTuple):
    """The assignments and the condition of an update.

    old.x and new.x are the columns of the row, and of the row to write; {column} is the assigned column.
    """

    values: dict[str, str]
    condition: str


def _build_merge(columns: Iterable[str], *, old: str, new: str, is_deletion: bool) -> _Merge:
    """Return the merge as SQL. old, new: patterns of the database for the name of a column."""
    names = list(columns)
    written = [name for name in names if name != SEEN_AT]
    merge = _merge_deletion(written) if is_deletion else _merge_data(written)
    if SEEN_AT in names and not is_deletion:
        merge = _track_sight(merge)
    patterns = {"old": old, "new": new}

    def render(template: str, column: str = "") -> str:
        text = template.replace("{column}", column)
        return re.sub(r"\b(old|new)\.(\w+)", lambda match: patterns[match[1]].format(quote(match[2])), text)

    values = {column: render(template, column) for column, template in merge.values.items()}
    return _Merge(values, render(merge.condition))


_NEW = "new.{column}"
_IS_DELETED = "old._deleted_at IS NOT NULL"
_IS_NEWER = "(old._version, old._vseq) < (new._version, new._vseq)"
_HAS_NO_DATA = "old._data_version IS NULL"
_IS_NEWER_DATA = "(old._data_version, old._data_vseq) < (new._version, new._vseq)"


def _merge_data(columns: Iterable[str]) -> _Merge:
    # The condition of the update holds: data for a row that is not deleted is newer than the row.
    is_live = f"(old._deleted_at IS NULL OR {_IS_NEWER})"
    row_version = f"CASE WHEN {is_live} THEN {_NEW} ELSE old.{{column}} END"
    is_changed = f"old.data <> new.data OR ({_IS_DELETED} AND {is_live})"
    values = {
        "_changed_at": f"CASE WHEN {is_changed} THEN {_NEW} ELSE old.{{column}} END",
        **dict.fromkeys(("data", "_meta", *columns, "_written_at"), _NEW),
        **dict.fromkeys(_VERSION_COLUMNS, row_version),
        "_deleted_at": f"CASE WHEN {is_live} THEN NULL ELSE old.{{column}} END",
        "_data_version": f"CASE WHEN {is_live} THEN NULL ELSE new._version END",
        "_data_vseq": f"CASE WHEN {is_live} THEN NULL ELSE new._vseq END",
    }
    # Equal data is updated too: without its version, a third version that arrives late would win.
    return _Merge(values, f"{_IS_NEWER} OR ({_IS_DELETED} AND ({_HAS_NO_DATA} OR {_IS_NEWER_DATA}))")


def _merge_deletion(columns: Iterable[str]) -> _Merge:
    last_data = f"CASE WHEN {_IS_DELETED} AND {_HAS_NO_DATA} THEN {_NEW} ELSE old.{{column}} END"
    data_version = f"CASE WHEN {_IS_DELETED} THEN old.{{column}} ELSE old.%s END"
    values = {
        **dict.fromkeys(("data", "_meta", *columns), last_data),
        **dict.fromkeys((*_VERSION_COLUMNS, "_deleted_at", "_changed_at", "_written_at"), _NEW),
        "_data_version": data_version % "_version",
        "_data_vseq": data_version % "_vseq",
    }
    return _Merge(values, _IS_NEWER)


_IS_NEWER_SIGHT = f"(old.{SEEN_AT} IS NULL OR old.{SEEN_AT} < new.{SEEN_AT})"
# Deleted by a run, and received since that run began: a version older than the row shows it as well.
_IS_SEEN_AGAIN = f"{_IS_DELETED} AND old._vseq = old._data_vseq AND old._deleted_at <= new.{SEEN_AT}"
_REVIVED = {
    **dict.fromkeys(("_deleted_at", "_data_version", "_data_vseq"), "NULL"),
    **dict.fromkeys(("_changed_at", "_written_at"), _NEW),
}


def _track_sight(merge: _Merge) -> _Merge:
    """Add the time of the newest sight, which a version older than the row advances alone."""
    values = {
        column: f"CASE WHEN {merge.condition} THEN {value}"
        + (f" WHEN {_IS_SEEN_AGAIN} THEN {_REVIVED[column]}" if column in _REVIVED else "")
        + " ELSE old.{column} END"
        for column, value in merge.values.items()
    }
    values[SEEN_AT] = f"CASE WHEN {_IS_NEWER_SIGHT} THEN {_NEW} ELSE old.{{column}} END"
    return _Merge(values, f"{merge.condition} OR {_IS_NEWER_SIGHT}")
