"""Records as their route sends them: keyed, versioned, filtered and reduced; pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.config.routes import Route
from app.expressions import ExpressionError, is_selected, transform
from app.routing.fields import drop_fields, keep_fields
from app.routing.keys import extract_key, hash_original, hash_record
from app.routing.versions import read_version
from app.sinks.base import Record, RejectedRecord
from app.truto.records import encode_json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class RoutedRecords:
    """The records of a delivery, or of a slice of it, for the sinks of its route.

    filtered: the number of records that the route's filter leaves out. has_key: whether a record has the
    route's key, or the route names none; None if no record is an object.
    """

    records: list[Record] = field(default_factory=list)
    rejected: list[RejectedRecord] = field(default_factory=list)
    filtered: int = 0
    has_key: bool | None = None


class _RejectedRecordError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RecordRouter:
    """Applies a route to the records of one delivery.

    received_at, version, is_deletion: as in Batch.
    """

    def __init__(
        self, route: Route, *, delivery_id: UUID, received_at: datetime, version: datetime, is_deletion: bool
    ) -> None:
        self._route = route
        self._version = version
        # The payload of a deletion may lack the fields of the record, and its own times are older than it.
        self._filter = "" if is_deletion else route.filter
        self._version_field = "" if is_deletion else route.version_field
        self._is_reduced = bool(route.only or route.drop or route.transform)
        received_us = (received_at - _EPOCH) // timedelta(microseconds=1)
        self._sequence = f"{received_us:016d}-{delivery_id.hex}-"

    def route(self, records: Iterable[tuple[int, Any]], originals: Mapping[int, str]) -> RoutedRecords:
        """Return the records for the sinks. records: (ordinal, value). originals: as in RecordBatch."""
        routed = RoutedRecords(has_key=None if self._route.key else True)
        for ordinal, value in records:
            try:
                record = self._route_record(ordinal, value, originals.get(ordinal, ""), routed)
            except _RejectedRecordError as error:
                routed.rejected.append(RejectedRecord(ordinal, error.reason, str(error)))
            except RecursionError:
                message = "nested deeper than JSON can be written"
                routed.rejected.append(RejectedRecord(ordinal, "too_deep", message))
            except ValueError:
                message = "holds a number longer than can be written"
                routed.rejected.append(RejectedRecord(ordinal, "number_out_of_range", message))
            else:
                if record:
                    routed.records.append(record)
                else:
                    routed.filtered += 1
        return routed

    def _route_record(self, ordinal: int, value: Any, original: str, routed: RoutedRecords) -> Record | None:
        route = self._route
        is_wrapped = not isinstance(value, dict)
        if is_wrapped:
            value = self._wrap(value)
        key = extract_key(value, route.key)
        if not (routed.has_key or is_wrapped):
            routed.has_key = key is not None
        if self._filter and not self._is_selected(value):
            return None
        if key is None and route.on_missing_key == "reject":
            message = f'no usable {route.key}; its route has on_missing_key = "reject"'
            raise _RejectedRecordError("no_key", message)
        if original:
            # Records that differ only in replaced characters have different keys.
            key = hash_original(original, route.key if key else "", is_wrapped=is_wrapped) or key
        key = key or hash_record(value)
        version = read_version(value, self._version_field) if self._version_field else self._version
        if self._is_reduced:
            value = self._reduce(value)
        return Record(
            ordinal=ordinal,
            key=key,
            version=version or self._version,
            sequence=f"{self._sequence}{ordinal:08d}",
            value=value,
            json_bytes=encode_json(value),
            misfits={} if version else {"_version": "not_a_time"},
        )

    def _wrap(self, value: Any) -> Any:
        if self._route.on_non_object == "reject":
            message = 'not an object; set on_non_object = "wrap" in its route to keep such records'
            raise _RejectedRecordError("not_object", message)
        return {"value": value}

    def _is_selected(self, value: Any) -> bool:
        try:
            return is_selected(value, self._filter)
        except ExpressionError as error:
            raise _RejectedRecordError("filter_failed", f"filter: {error}") from error

    def _reduce(self, value: Any) -> Any:
        """Return a record with the fields that its route keeps, in the form that it gives them."""
        route = self._route
        if route.only:
            value = keep_fields(value, route.only)
        if route.drop:
            value = drop_fields(value, route.drop)
        if route.transform:
            try:
                value = transform(value, route.transform)
            except ExpressionError as error:
                raise _RejectedRecordError("transform_failed", f"transform: {error}") from error
            if not isinstance(value, dict):
                value = self._wrap(value)
        return value
