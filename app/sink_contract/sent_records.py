"""Records for a sink, routed as a worker does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4, uuid5

from app.config.routes import Route
from app.routing.records import RecordRouter, RoutedRecords
from app.sinks.base import AnySink, Batch, LoadSink, RejectedRecord, WriteResult

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


def write(sink: AnySink, sent: SentRecords, route: Route) -> Written:
    """Route records and write them, as a worker does."""
    routed = sent.route(route)
    result = write_batch(sink, replace(sent.header, records=routed.records), route)
    rejected = sorted([*routed.rejected, *result.rejected], key=lambda record: record.ordinal)
    return Written(result.written, rejected, result.misfits)


def write_together(sink: AnySink, sent: Sequence[SentRecords], route: Route) -> int:
    """Write deliveries, in a sink that writes loads as one load; return the number of written records."""
    if not isinstance(sink, LoadSink):
        return sum(write(sink, one, route).written for one in sent)
    writer = sink.begin_load(uuid4())
    try:
        written = sum(writer.add(one.build_batch(route), route).written for one in sent)
        writer.prepare()
        writer.commit(earlier="")
    finally:
        writer.close()
    return written


def write_batch(sink: AnySink, batch: Batch, route: Route) -> WriteResult:
    """Write a batch; in a sink that writes loads, as the only one of its load."""
    if not isinstance(sink, LoadSink):
        return sink.write(batch, route)
    # The same batch again is the same load again.
    first, number = batch.first_ordinal, len(batch.records)
    load_id = uuid5(batch.delivery_id, f"{first} {number}") if first else batch.delivery_id
    writer = sink.begin_load(load_id)
    try:
        result = writer.add(batch, route)
        writer.prepare()
        writer.commit(earlier="")
    finally:
        writer.close()
    return result
