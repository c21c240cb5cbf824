"""Fuzz target: the records of a body, whole and in slices."""

import re
from typing import Any

from app.truto import record_slices
from app.truto.record_slices import find_slices
from app.truto.records import RecordBatch, read_raw_records, read_records, to_json
from tests.fuzz.targets.json_bodies import force_slow_reader

_REASONS = ("not_json", "too_deep", "number_out_of_range", "not_a_number")
_MAX_SLICE_RECORDS = 3
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check(content: bytes) -> None:
    """Check that each record is read once, or isolated with a reason.

    content: a signed body. Slices and both readers give the same records, and each can be written as JSON.
    """
    batch = read_records(content)
    whole = _list_records(batch)
    assert _read_slices(content) == whole, "the slices differ from the whole"
    if batch is None:
        return
    ordinals = [ordinal for ordinal, _, _ in whole or ()]
    assert ordinals == list(range(len(ordinals))), "an ordinal is missing or repeated"
    assert set(read_raw_records(content, ordinals)) == set(ordinals), "a record has no text"
    assert set(batch.originals) <= set(ordinals)
    assert bool(batch.originals) == bool(batch.replaced_characters)
    same = force_slow_reader(content)
    if same is not None:
        assert _list_records(read_records(same)) == whole, "the readers disagree"


def _list_records(batch: RecordBatch | None) -> list[tuple[int, str, str]] | None:
    """Return ordinal, reason and JSON of all records, in order."""
    if batch is None:
        return None
    assert all(record.reason in _REASONS for record in batch.unreadable), batch.unreadable
    records = [(ordinal, "", _write(value)) for ordinal, value in batch.records]
    return sorted(records + [(record.ordinal, record.reason, record.raw) for record in batch.unreadable])


def _write(value: Any) -> str:
    text = to_json(value)
    assert not _NUL.search(text), "PostgreSQL stores no NUL"
    return text


def _read_slices(content: bytes) -> list[tuple[int, str, str]] | None:
    # Small slices, so that short bodies have several.
    limit = record_slices.MAX_SLICE_RECORDS
    record_slices.MAX_SLICE_RECORDS = _MAX_SLICE_RECORDS
    try:
        slices = find_slices(content)
        if slices is None:
            return None
        read = [record for part in slices.read() for record in _list_records(part.batch) or ()]
        assert len(read) == slices.count, "the number of records differs"
        return read
    finally:
        record_slices.MAX_SLICE_RECORDS = limit
