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
    by_key: dict[str, list[Record]] = {}
    for record in records:
        by_key.setdefault(record.key, []).append(record)
    # Two statements that lock the same rows in different orders would deadlock.
    return [_make_row(by_key[key], columns, limits) for key in sorted(by_key)]


def _make_row(records: Sequence[Record], columns: Mapping[str, ColumnConfig], limits: DecimalLimits) -> Row:
    newest = records[0] if len(records) == 1 else max(records, key=lambda r: (r.version, r.sequence))
    values, misfits = cast_columns(newest.value, columns, limits)
    misfits.update(newest.misfits)
    return Row(
        record=newest,
        ordinals=tuple(record.ordinal for record in records),
        columns=values,
        meta=to_json(misfits) if misfits else None,
        misfits=tuple(misfits),
    )
