"""Rows of a batch: deduplicated, sorted by key, and cast to columns; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.config.routes import ColumnConfig
from app.sinks.base import Record
from app.sinks.sql.columns import MAX_DECIMAL, DecimalLimits, cast_columns
from app.truto.records import to_json


@dataclass(frozen=True, slots=True)
class Row:
    """One row to write.

    ordinals: of all records with its key. columns: cast values by name. meta: the misfits as JSON; None
    without any. misfits: the columns whose values did not fit, and the fields of the route.
    """

    record: Record
    ordinals: tuple[int, ...]
    columns: dict[str, Any]
    meta: str | None
    misfits: tuple[str, ...] = ()


def make_rows(
    records: Sequence[Record], columns: Mapping[str, ColumnConfig], limits: DecimalLimits = MAX_DECIMAL
) -> list[Row]:
    """Return the rows of records, sorted by key: of records with the same key, the newest one is written."""
    newest: dict[str, Record] = {}
    # Of the keys that several records have: hardly a batch has one.
    ordinals: dict[str, list[int]] = {}
    for record in records:
        key = record.key
        other = newest.get(key)
        if other is not None:
            ordinals.setdefault(key, [other.ordinal]).append(record.ordinal)
            if (record.version, record.sequence) < (other.version, other.sequence):
                continue
        newest[key] = record
    # Two statements that lock the same rows in different orders would deadlock.
    return [
        _make_row(newest[key], tuple(ordinals.get(key) or (newest[key].ordinal,)), columns, limits)
        for key in sorted(newest)
    ]


def _make_row(
    record: Record, ordinals: tuple[int, ...], columns: Mapping[str, ColumnConfig], limits: DecimalLimits
) -> Row:
    if not columns and not record.misfits:
        return Row(record, ordinals, {}, None)
    values, misfits = cast_columns(record.value, columns, limits)
    misfits.update(record.misfits)
    meta = to_json(misfits) if misfits else None
    return Row(record, ordinals, columns=values, meta=meta, misfits=tuple(misfits))
