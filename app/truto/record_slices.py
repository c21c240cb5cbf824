"""Slices of a body's records, for reading and writing in steps.

A slice is as large as an ordinary page. As Python objects, all records of a body of 32 MiB at once would take
gigabytes, and a single statement for all of them minutes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from app.truto.json_scanner import JsonSpan, NotJson, count_items, scan_items
from app.truto.records import RecordBatch, UnreadableRecord, find_records, read_raw_records, read_records

# The files sink names its files after slices: with other limits, a replay would not overwrite older files.
MAX_SLICE_RECORDS = 1000
MAX_SLICE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RecordSlice:
    """Consecutive records of a body.

    body: an event with these records alone. first_ordinal: of its first record. payload_is_record: as in
    `read_records`.
    """

    batch: RecordBatch
    body: bytes
    first_ordinal: int = 0
    is_last: bool = True
    payload_is_record: bool = False

    @property
    def next_ordinal(self) -> int:
        """The ordinal of the record after the slice."""
        return self.first_ordinal + len(self.batch.records) + len(self.batch.unreadable)

    def read_raw_records(self, ordinals: Sequence[int]) -> dict[int, str]:
        """Return the original JSON of these records by ordinal."""
        return read_raw_records(
            self.body, ordinals, payload_is_record=self.payload_is_record, first_ordinal=self.first_ordinal
        )


class RecordSlices:
    """The records of one body in slices, which are the same at every reading.

    count: the number of records. array: of the records in the body; None if one slice has all.
    """

    def __init__(self, count: int, *, only: RecordSlice | None = None, array: JsonSpan | None = None) -> None:
        self.count = count
        self._only = only
        self._array = array

    @property
    def is_single(self) -> bool:
        """Whether one slice has all records."""
        return self._only is not None

    @property
    def replaced_characters(self) -> int:
        """As in RecordBatch, if one slice has all records; else 0."""
        return self._only.batch.replaced_characters if self._only else 0

    def read(self, *, first_ordinal: int = 0) -> Iterator[RecordSlice]:
        """Read the slices one by one, beginning with the one that starts at a record."""
        if self._only:
            yield self._only
        elif self._array:
            for spans in _group_spans(scan_items(self._array, first=first_ordinal)):
                record_slice = self._read_slice(spans, first_ordinal)
                yield record_slice
                first_ordinal = record_slice.next_ordinal

    def _read_slice(self, spans: Sequence[JsonSpan], first_ordinal: int) -> RecordSlice:
        records = spans[0].body[spans[0].start : spans[-1].end]
        body = b'{"payload":{"records":[%b]}}' % records
        batch = read_records(body, first_ordinal=first_ordinal) or RecordBatch(())
        is_last = first_ordinal + len(spans) == self.count
        return RecordSlice(batch, body, first_ordinal, is_last=is_last)


def find_slices(body: bytes, *, payload_is_record: bool = False) -> RecordSlices | None:
    """Find the slices of an event's records; None if its payload has none. See `read_records`."""
    if len(body) <= MAX_SLICE_BYTES:
        batch = read_records(body, payload_is_record=payload_is_record)
        if batch is None:
            return None
        if len(batch.records) + len(batch.unreadable) <= MAX_SLICE_RECORDS:
            return _only_slice(batch, body, payload_is_record=payload_is_record)
    span = find_records(body, payload_is_record=payload_is_record)
    if span is None:
        return None
    if not span.is_array:
        batch = read_records(body, payload_is_record=payload_is_record) or RecordBatch(())
        return _only_slice(batch, body, payload_is_record=payload_is_record)
    try:
        count = count_items(span)
    except NotJson:
        # Not by `read_records`: it would build all records before the error.
        return _only_slice(RecordBatch((), [UnreadableRecord(0, "not_json", span.raw)]), body)
    return RecordSlices(count, array=span) if count else _only_slice(RecordBatch(()), body)


def _only_slice(batch: RecordBatch, body: bytes, *, payload_is_record: bool = False) -> RecordSlices:
    only = RecordSlice(batch, body, payload_is_record=payload_is_record)
    return RecordSlices(only.next_ordinal, only=only)


def _group_spans(spans: Iterator[JsonSpan]) -> Iterator[Sequence[JsonSpan]]:
    group: list[JsonSpan] = []
    for span in spans:
        if group and (len(group) == MAX_SLICE_RECORDS or span.end - group[0].start > MAX_SLICE_BYTES):
            yield group
            group = []
        group.append(span)
    if group:
        yield group
