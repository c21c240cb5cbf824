"""Records for a sink, routed as a worker does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from app.config.routes import Route
from app.routing.records import RecordRouter, RoutedRecords
from app.sinks.base import Batch, RejectedRecord, Sink

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SentRecords:
    """Records of one delivery. header: its batch without records. originals: as in RecordBatch."""

    header: Batch
    values: Sequence[Any]
    originals: Mapping[int, str] = field(default_factory=dict)

    def route(self, route: Route) -> RoutedRecords:
        """Return the records as the route sends them."""
        header = self.header
        router = RecordRouter(
            route,
            delivery_id=header.delivery_id,
            received_at=header.received_at,
            version=header.version,
            is_deletion=header.is_deletion,
        )
        return router.route(enumerate(self.values), self.originals)

    def build_batch(self, route: Route) -> Batch:
        """Return the batch that a worker passes to a sink."""
        return replace(self.header, records=self.route(route).records)


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write: as in WriteResult, with the records that the route rejects."""

    written: int
    rejected: Sequence[RejectedRecord]
    misfits: Mapping[str, int]


def send(
    values: Sequence[Any], *, at_s: float = 0, number: int = 1, is_deletion: bool = False, **changes: Any
) -> SentRecords:
    """A delivery created `at_s` seconds after NOW; `number` distinguishes deliveries."""
    header = Batch(
        delivery_id=UUID(int=number),
        received_at=NOW + timedelta(microseconds=number),
        version=NOW + timedelta(seconds=at_s),
        resource="crm/contacts",
        method="list",
        account="a1",
        job="j1",
        run="r1",
        records=(),
        is_deletion=is_deletion,
    )
    return SentRecords(replace(header, **changes), values)


def write(sink: Sink, sent: SentRecords, route: Route) -> Written:
    """Route records and write them, as a worker does."""
    routed = sent.route(route)
    result = sink.write(replace(sent.header, records=routed.records), route)
    rejected = sorted([*routed.rejected, *result.rejected], key=lambda record: record.ordinal)
    return Written(result.written, rejected, result.misfits)
