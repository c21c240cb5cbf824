"""The slices of a body hold the same records as the whole body."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.truto import record_slices
from app.truto.record_slices import find_slices
from app.truto.records import read_raw_records, read_records

RECORDS = st.sampled_from(
    [
        '{"id": 1}',
        "[]",
        "NaN",
        '"]"',
        "1.50",
        '{"a": "é😀"}',
        '{"n": "\\u0000"}',
        "[[[[[[1]]]]]]",
        "{x}",
        "null",
    ]
)
SEPARATORS = st.sampled_from([",", ", ", " ,\n\t"])


@pytest.fixture(scope="module", autouse=True)
def small_slices() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(record_slices, "MAX_SLICE_RECORDS", 3)
        yield


def make_body(records: str, *, prefix: bytes = b"") -> bytes:
    return prefix + b'{"payload": {"records": %b, "resource": "a"}}' % records.encode()


@given(st.lists(RECORDS, max_size=20), SEPARATORS, st.sampled_from([b"", b"\xef\xbb\xbf"]))
def test_slices_hold_the_records_of_the_whole_body(records: list[str], separator: str, bom: bytes) -> None:
    body = make_body(f"[ {separator.join(records)} ]", prefix=bom)
    whole, slices = read_records(body), find_slices(body)
    assert whole
    assert slices
    assert slices.count == len(records)

    read = list(slices.read())

    assert [record for part in read for record in part.batch.records] == list(whole.records)
    assert [record for part in read for record in part.batch.unreadable] == list(whole.unreadable)
    assert sum(part.batch.replaced_characters for part in read) == whole.replaced_characters
    assert [part.is_last for part in read] == [*[False] * (len(read) - 1), True]
    ordinals = range(len(records))
    raw = {n: text for part in read for n, text in part.read_raw_records(ordinals).items()}
    assert raw == read_raw_records(body, ordinals)
    for part in read:
        assert next(slices.read(first_ordinal=part.first_ordinal)) == part


def test_slices_have_a_bounded_number_of_records_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_slices, "MAX_SLICE_BYTES", 20)
    texts = ["1", "2", "3", "4", '"' + 50 * "x" + '"', "5", '"' + 10 * "y" + '"', "6", "7"]
    slices = find_slices(make_body(f"[{','.join(texts)}]"))
    assert slices

    read = [[ordinal for ordinal, _ in part.batch.records] for part in slices.read()]

    assert read == [[0, 1, 2], [3], [4], [5, 6, 7], [8]]


def test_broken_utf8_is_replaced_within_its_record() -> None:
    slices = find_slices(b'{"payload": {"records": [1, 2, 3, {"a": "x\xff"}, \xe0, 6]}}')
    assert slices

    [first, second] = slices.read()

    assert first.batch.records == [(0, 1), (1, 2), (2, 3)]
    assert second.batch.records == [(3, {"a": "x\ufffd"}), (5, 6)]
    assert [(r.ordinal, r.reason, r.raw) for r in second.batch.unreadable] == [(4, "not_json", "\ufffd")]


@pytest.mark.parametrize("records", ["[1, 2, 3, 4, 5 6]", "[1, 2, 3, 4,]", "[,1, 2, 3, 4]"])
def test_a_malformed_array_is_one_unreadable_record(monkeypatch: pytest.MonkeyPatch, records: str) -> None:
    monkeypatch.setattr(record_slices, "MAX_SLICE_BYTES", 10)
    slices = find_slices(make_body(records))
    assert slices

    [only] = slices.read()

    assert [(r.ordinal, r.reason, r.raw) for r in only.batch.unreadable] == [(0, "not_json", records)]


@pytest.mark.parametrize(
    ("payload", "records"),
    [
        ({"records": []}, []),
        ({"records": {"id": 1}}, [(0, {"id": 1})]),
        ({"record": [1, 2, 3, 4]}, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ({"id": 1}, [(0, {"id": 1})]),
    ],
)
@pytest.mark.parametrize("max_bytes", [10, 1000])
def test_records_of_every_shape_are_read(
    monkeypatch: pytest.MonkeyPatch, payload: Any, records: list[Any], max_bytes: int
) -> None:
    monkeypatch.setattr(record_slices, "MAX_SLICE_BYTES", max_bytes)
    body = json.dumps({"payload": payload}).encode()

    slices = find_slices(body, payload_is_record=True)

    assert slices
    assert [record for part in slices.read() for record in part.batch.records] == records
    assert (find_slices(body) is None) == ("id" in payload)


def test_a_body_without_the_outline_of_json_has_no_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_slices, "MAX_SLICE_BYTES", 10)

    assert find_slices(b'{"payload": {"records": [1, 2, 3') is None
