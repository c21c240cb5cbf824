"""A batch as rows: keyed, deduplicated, in the order of their keys. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.config.routes import Route
from app.sinks.base import Batch, Record, RejectedRecord
from app.sinks.sql.columns import cast_columns
from app.sinks.sql.keys import extract_key, hash_record, to_json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Row:
    """One record on its way into a table. data, meta: JSON. columns: cast values by name."""

    ordinals: tuple[int, ...]
    key: str
    sequence: str
    data: str
    columns: dict[str, Any]
    meta: str | None


class _RejectedRecordError(Exception):  # carries a refusal, is no fault
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def make_rows(batch: Batch, route: Route) -> tuple[Sequence[Row], Sequence[RejectedRecord]]:
    """Return a batch's rows in the order of their keys, and the records that can be no row.

    Of records with one key the last is taken; the row then stands for all of their ordinals.
    """
    rows: dict[str, Row] = {}
    rejected = []
    # Tells versions of the same moment apart: first received, then delivery, then place. Fixed width.
    received_us = (batch.received_at - _EPOCH) // timedelta(microseconds=1)
    sequence = f"{received_us:016d}-{batch.delivery_id.hex}-"
    for record in batch.records:
        try:
            row = _make_row(record, sequence, route)
        except _RejectedRecordError as refused:
            rejected.append(RejectedRecord(record.ordinal, refused.reason, str(refused)))
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
    if not isinstance(value, dict):
        if route.non_object == "refuse":
            raise _RejectedRecordError(
                "not_object", 'no object; non_object = "wrap" in its route would keep it'
            )
        value = {"value": value}
    key = extract_key(value, route.key)
    if key is None:
        if route.missing_key == "refuse":
            raise _RejectedRecordError("no_key", f"no usable {route.key}, and its route refuses such records")
        key = hash_record(value)
    columns, misfits = cast_columns(value, route.columns)
    return Row(
        ordinals=(record.ordinal,),
        key=key,
        sequence=f"{sequence}{record.ordinal:08d}",
        data=to_json(value),
        columns=columns,
        meta=to_json(misfits) if misfits else None,
    )
