"""Rows of batches: deduplicated, sorted by key, and cast to columns; pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from app.config.routes import ColumnConfig
from app.sinks.base import Batch, Record
from app.sinks.sql.columns import MAX_DECIMAL, ColumnCaster, DecimalLimits
from app.truto.records import to_json

_NONE: Mapping[str, str | None] = MappingProxyType({})


# The garbage collector need not visit rows: no value of a record leads back to one.
class Row(msgspec.Struct, frozen=True, gc=False):
    """One row to write.

    batch: of the record. shared_ordinals: of all records with its key, if there are several. columns: cast
    values by name. meta: the misfits as JSON; None without any. misfits: the columns whose values did not
    fit, and the fields of the route.
    """

    batch: Batch
    record: Record
    shared_ordinals: Sequence[int] = ()
    columns: dict[str, Any] = {}
    meta: str | None = None
    misfits: tuple[str, ...] = ()

    @property
    def ordinals(self) -> Sequence[int]:
        """The ordinals of all records that the row stands for."""
        return self.shared_ordinals or (self.record.ordinal,)


def make_rows(
    batch: Batch,
    columns: Mapping[str, ColumnConfig],
    limits: DecimalLimits = MAX_DECIMAL,
    *,
    shared: Mapping[str, str | None] = _NONE,
) -> list[Row]:
    """Return the rows of a batch, sorted by key: of records with the same key, the newest one is written.

    shared: values of further columns, equal in all rows.
    """
    newest = {record.key: record for record in batch.records}
    ordinals: dict[str, list[int]] = {}
    if len(newest) < len(batch.records):
        newest, ordinals = _find_newest(batch.records)
    caster = ColumnCaster(columns, limits) if columns else None
    is_plain = not (ordinals or columns or shared)
    # Two statements that lock the same rows in different orders would deadlock.
    return [
        Row(batch, newest[key])
        if is_plain and not newest[key].misfits
        else _make_row(batch, newest[key], ordinals.get(key, ()), caster, shared)
        for key in sorted(newest)
    ]


def _find_newest(records: Sequence[Record]) -> tuple[dict[str, Record], dict[str, list[int]]]:
    """Return the newest record of each key, and the ordinals of the keys that several records have."""
    newest: dict[str, Record] = {}
    ordinals: dict[str, list[int]] = {}
    for record in records:
        key = record.key
        other = newest.get(key)
        if other is not None:
            ordinals.setdefault(key, [other.ordinal]).append(record.ordinal)
            if (record.version, record.sequence) < (other.version, other.sequence):
                continue
        newest[key] = record
    return newest, ordinals


def join_rows(rows: Iterable[Sequence[Row]]) -> Iterator[Sequence[Row]]:
    """Yield the rows of several batches in groups for one statement each, sorted by account and key.

    A statement cannot write a row twice: a batch with a key of an earlier one begins another group.
    """
    group: list[Row] = []
    places: set[tuple[str, str]] = set()
    for batch_rows in rows:
        batch_places = {(row.batch.account, row.record.key) for row in batch_rows}
        if not places.isdisjoint(batch_places):
            yield sorted(group, key=_find_place)
            group, places = [], set()
        group += batch_rows
        places |= batch_places
    yield sorted(group, key=_find_place)


def _find_place(row: Row) -> tuple[str, str]:
    return row.batch.account, row.record.key


def _make_row(
    batch: Batch,
    record: Record,
    shared_ordinals: Sequence[int],
    caster: ColumnCaster | None,
    shared: Mapping[str, str | None],
) -> Row:
    values, misfits = caster.cast(record.value) if caster else ({}, {})
    misfits.update(record.misfits)
    return Row(
        batch,
        record,
        shared_ordinals,
        columns={**values, **shared} if shared else values,
        meta=to_json(misfits) if misfits else None,
        misfits=tuple(misfits),
    )
