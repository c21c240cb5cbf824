"""Fuzz target: records on their way through a route to typed columns."""

from datetime import UTC, datetime
from uuid import UUID

from app.config.routes import ColumnConfig, Route
from app.routing.records import RecordRouter
from app.sinks.base import REASON_PATTERN
from app.sinks.sql.columns import ColumnCaster
from app.truto.records import encode_json, read_records

_MAX_KEY_BYTES = 512
_AT = datetime(2026, 11, 27, tzinfo=UTC)
_PLAIN = Route(sinks=("main",))
_REDUCED = Route(
    sinks=("main",),
    key="owner.id",
    on_missing_key="reject",
    on_non_object="wrap",
    version_field="updated_at",
    only=("owner", "name", "tags.0", "amount"),
    drop=("owner.email", "tags.1"),
)
_ROUTERS = tuple(
    RecordRouter(route, delivery_id=UUID(int=1), received_at=_AT, version=_AT, is_deletion=False)
    for route in (_PLAIN, _REDUCED)
)
_TYPES = ("text", "integer", "number", "decimal", "boolean", "timestamp", "date", "json")
_COLUMNS = {
    **{f"{type_}_column": ColumnConfig(type=type_, path="amount") for type_ in _TYPES},  # type: ignore[arg-type]
    **{type_: ColumnConfig(type=type_, path=type_) for type_ in _TYPES},  # type: ignore[arg-type]
}
_CASTER = ColumnCaster(_COLUMNS)


def check(content: bytes) -> None:
    """Check that each record is sent, filtered, or rejected with a reason.

    content: the records, as JSON items with commas between. Keys are storable and short; a value that does
    not fit its column is a misfit with a short code.
    """
    batch = read_records(b'{"payload":{"records":[%b]}}' % content)
    if batch is None:
        return
    for router in _ROUTERS:
        routed = router.route(batch.records, batch.originals)
        assert len(routed.records) + len(routed.rejected) + routed.filtered == len(batch.records)
        assert all(REASON_PATTERN.fullmatch(rejected.reason) for rejected in routed.rejected)
        for record in routed.records:
            assert record.key, "the key is empty"
            assert len(record.key.encode()) <= _MAX_KEY_BYTES, "the key is too long"
            assert "\0" not in record.key, "PostgreSQL stores no NUL"
            assert encode_json(record.value) == record.json_bytes
            values, misfits = _CASTER.cast(record.value)
            assert values.keys() == _COLUMNS.keys()
            assert all(REASON_PATTERN.fullmatch(code) for code in misfits.values()), misfits
