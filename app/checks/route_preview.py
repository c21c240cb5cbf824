"""Previews of the records that a route would write; nothing is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from app.config.routes import Route
from app.routing.records import RecordRouter
from app.sinks.sql.columns import ColumnCaster
from app.truto.records import read_records

_NO_DELIVERY = UUID(int=0)


@dataclass(frozen=True, slots=True)
class RecordPreview:
    """One record after its route.

    result: written, filtered, or the reason why it is rejected. message: for a rejected one. json: the data
    that sinks store. columns, misfits: of SQL sinks, by name.
    """

    ordinal: int
    result: str
    message: str = ""
    key: str = ""
    version: datetime | None = None
    json: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    misfits: dict[str, str] = field(default_factory=dict)


def preview_records(sample: bytes, route: Route, *, received_at: datetime) -> Sequence[RecordPreview] | None:
    """Return the previews of sample records; None if the sample is no JSON.

    sample: a record, a list of records, or an event with records, as JSON.
    """
    batch = read_records(sample)
    if batch is None:
        batch = read_records(b'{"payload":{"records":%b}}' % sample.strip())
    if batch is None or any(record.reason == "not_json" for record in batch.unreadable):
        return None
    router = RecordRouter(
        route, delivery_id=_NO_DELIVERY, received_at=received_at, version=received_at, is_deletion=False
    )
    previews: dict[int, RecordPreview] = {
        record.ordinal: RecordPreview(record.ordinal, record.reason, "cannot be read")
        for record in batch.unreadable
    }
    caster = ColumnCaster(route.columns)
    for ordinal, value in batch.records:
        routed = router.route([(ordinal, value)], batch.originals)
        for rejected in routed.rejected:
            previews[ordinal] = RecordPreview(ordinal, rejected.reason, rejected.message)
        for record in routed.records:
            columns, misfits = caster.cast(record.value)
            previews[ordinal] = RecordPreview(
                ordinal,
                "written",
                key=record.key,
                version=record.version,
                json=record.json,
                columns=columns,
                misfits={**misfits, **record.misfits},
            )
        previews.setdefault(ordinal, RecordPreview(ordinal, "filtered"))
    return [previews[ordinal] for ordinal in sorted(previews)]
