"""Suggested columns for a resource, from records that have arrived; pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from app.config.routes import ColumnConfig
from app.sinks.sql.columns import ColumnCaster
from app.truto.record_path import find_value
from app.truto.records import ExactDecimal

# The first one that every value fits is suggested. Text stays text, even if it looks like a number: "007".
_NUMBER_TYPES = ("integer", "decimal")
_TEXT_TYPES = ("date", "timestamp", "text")
_CASTERS = {
    type_: ColumnCaster({"value": ColumnConfig.model_validate({"type": type_})})
    for type_ in ("boolean", *_NUMBER_TYPES, *_TEXT_TYPES)
}
_MAX_DEPTH = 2
_MAX_PATHS = 1000
_MAX_COLUMN_NAME = 63
# The raw original of a unified record: the first thing to drop.
_SKIPPED = ("remote_data",)


@dataclass(frozen=True, slots=True)
class SuggestedColumn:
    """A column that every value seen fits. present: the number of records with a value."""

    name: str
    type: str
    path: str
    present: int


class ColumnSuggestions:
    """Collects the values of records, and suggests a typed column for each simple value.

    Values of objects are suggested to a depth of two; lists are not, and fields with objects in some records
    and simple values in others.
    """

    def __init__(self) -> None:
        self.records = 0
        self._types: dict[str, list[str]] = {}
        self._present: dict[str, int] = {}
        self._mixed: set[str] = set()

    def add(self, record: Any) -> None:
        """Add one record."""
        self.records += 1
        for path, value in _list_values(record, "", _MAX_DEPTH):
            self._add_value(record, path, value)

    def suggest(self) -> list[SuggestedColumn]:
        """Return the columns, those that most records have first."""
        names: set[str] = set()
        columns = []
        for path in sorted(self._present, key=lambda path: (-self._present[path], path)):
            name = _make_name(path)
            if path in self._mixed or not self._types[path] or not name or name in names:
                continue
            names.add(name)
            columns.append(SuggestedColumn(name, self._types[path][0], path, self._present[path]))
        return columns

    def _add_value(self, record: Any, path: str, value: Any) -> None:
        if value is None or (path not in self._present and len(self._present) >= _MAX_PATHS):
            return
        self._present[path] = self._present.get(path, 0) + 1
        if isinstance(value, dict | list) or find_value(record, path) is not value:
            self._mixed.add(path)
            return
        candidates = self._types.get(path)
        if candidates is None:
            candidates = list(_choose_candidates(value))
        fitting = _choose_candidates(value)
        self._types[path] = [
            type_ for type_ in candidates if type_ in fitting and not _has_misfit(value, type_)
        ]


def _choose_candidates(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, str):
        return _TEXT_TYPES
    return _NUMBER_TYPES if isinstance(value, int | ExactDecimal) else ()


def _has_misfit(value: Any, type_: str) -> bool:
    _, misfits = _CASTERS[type_].cast({"value": value})
    # A timestamp also fits a date, which would lose its time.
    return bool(misfits) or (type_ == "date" and len(value.strip()) > len("2026-01-31"))


def _list_values(value: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the path and the value of each member."""
    if not isinstance(value, dict):
        return
    for name, member in value.items():
        if name in _SKIPPED:
            continue
        path = f"{prefix}{name}"
        yield path, member
        if depth > 1:
            yield from _list_values(member, f"{path}.", depth - 1)


def _make_name(path: str) -> str:
    """Return a column's name for a path; "" if it has none."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", path)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    if name[:1].isdigit():
        name = f"n{name}"
    # `data` and the system columns of PostgreSQL are taken.
    taken = {"data", "cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"}
    return f"{name}_"[:_MAX_COLUMN_NAME] if name in taken else name[:_MAX_COLUMN_NAME]
