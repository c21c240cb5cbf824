"""Rows of a batch: keyed, deduplicated and sorted by key; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.config.routes import Route
from app.sinks.base import Batch, Record, RejectedRecord
from app.sinks.sql.columns import cast_columns
from app.sinks.sql.keys import extract_key, hash_original, hash_record, to_json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Row:
    """One row to write.

    data, meta: JSON. columns: cast values by name. misfits: the columns whose values did not fit. ordinals:
    its records.
    """

    ordinals: tuple[int, ...]
    key: str
    sequence: str
    data: str
    columns: dict[str, Any]
    meta: str | None
    misfits: tuple[str, ...] = ()


class _RejectedRecordError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def make_rows(batch: Batch, route: Route) -> tuple[Sequence[Row], Sequence[RejectedRecord]]:
    """Return a batch's rows sorted by key, and the records that cannot become rows.

    Of records with the same key, the last one is written; its row lists the ordinals of all.
    """
    rows: dict[str, Row] = {}
    rejected = []
    # Orders versions of the same time by receipt, delivery and ordinal; of fixed width, to compare as text.
    received_us = (batch.received_at - _EPOCH) // timedelta(microseconds=1)
    sequence = f"{received_us:016d}-{batch.delivery_id.hex}-"
    for record in batch.records:
        try:
            row = _make_row(record, sequence, route)
        except _RejectedRecordError as error:
            rejected.append(RejectedRecord(record.ordinal, error.reason, str(error)))
        except RecursionError:
            rejected.append(
                RejectedRecord(record.ordinal, "too_deep", "nested deeper than JSON can be written")
            )
        except ValueError:
            message = "holds a number longer than can be written"
            rejected.append(RejectedRecord(record.ordinal, "number_out_of_range", message))
        else:
            if earlier := rows.get(row.key):
                row = replace(row, ordinals=earlier.ordinals + row.ordinals)
            rows[row.key] = row
    # Two statements that lock the same rows in different orders would deadlock.
    return [rows[key] for key in sorted(rows)], rejected


def _make_row(record: Record, sequence: str, route: Route) -> Row:
    value = record.value
    is_wrapped = not isinstance(value, dict)
    if is_wrapped:
        if route.non_object == "refuse":
            raise _RejectedRecordError(
                "not_object", 'not an object; set non_object = "wrap" in its route to keep such records'
            )
        value = {"value": value}
    key = extract_key(value, route.key)
    if key is None and route.missing_key == "refuse":
        raise _RejectedRecordError("no_key", f'no usable {route.key}; its route has missing_key = "refuse"')
    if record.original:
        # Records that differ only in replaced characters have different keys.
        key = hash_original(record.original, route.key if key else "", is_wrapped=is_wrapped) or key
    key = key or hash_record(value)
    columns, misfits = cast_columns(value, route.columns)
    return Row(
        ordinals=(record.ordinal,),
        key=key,
        sequence=f"{sequence}{record.ordinal:08d}",
        data=to_json(value),
        columns=columns,
        meta=to_json(misfits) if misfits else None,
        misfits=tuple(misfits),
    )
