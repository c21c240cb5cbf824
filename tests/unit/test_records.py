"""Every readable record is read, and every unreadable record is isolated."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.truto.records import read_raw_records, read_records


def body(payload: str) -> bytes:
    return f'{{"event": "sync_job_run:record", "payload": {payload}}}'.encode(errors="surrogatepass")


@pytest.mark.parametrize(
    ("payload", "records"),
    [
        ('{"records": [{"id": 1}, {"id": 2}]}', [{"id": 1}, {"id": 2}]),
        ('{"records": {"id": 1}}', [{"id": 1}]),
        ('{"records": []}', []),
        ('{"record": {"id": 1}}', [{"id": 1}]),
        ('{"records": null, "record": {"id": 1}}', [{"id": 1}]),
        ('{"records": "text"}', ["text"]),
        ('{"records": 0}', [0]),
        ('{"records": [null, 1, "a", [2], {}]}', [None, 1, "a", [2], {}]),
        ('{"records": [1], "records": [2]}', [2]),
    ],
)
def test_records_are_read_in_every_shape(payload: str, records: list[Any]) -> None:
    batch = read_records(body(payload))

    assert batch is not None
    assert [value for _, value in batch.records] == records
    assert [ordinal for ordinal, _ in batch.records] == list(range(len(records)))


@pytest.mark.parametrize("payload", ["{}", "null", "[]", '"text"', "7", '{"records": null}', '{"other": 1}'])
def test_a_payload_without_records_returns_none(payload: str) -> None:
    assert read_records(body(payload)) is None


@pytest.mark.parametrize("payload", ['{"id": "x"}', '["x"]', "7"])
def test_a_payload_may_be_the_record_itself(payload: str) -> None:
    batch = read_records(body(payload), payload_is_record=True)

    assert batch is not None
    assert [value for _, value in batch.records] == [json.loads(payload)]


@pytest.mark.parametrize(
    ("unreadable", "reason"),
    [
        ("[" * 100_000 + "]" * 100_000, "too_deep"),
        ("9" * 5000, "number_out_of_range"),
        ("1e400", "number_out_of_range"),
        ("-1e400", "number_out_of_range"),
        ("9" * 400 + ".5", "number_out_of_range"),
        ("NaN", "not_a_number"),
        ("-Infinity", "not_a_number"),
        ("nonsense", "not_json"),
        ('{"a": 1,}', "not_json"),
        ("{1: 2}", "not_json"),
        ("[}", "not_json"),
        ("01", "not_json"),
    ],
    ids=lambda text: text[:10],
)
def test_one_unreadable_record_does_not_affect_the_others(unreadable: str, reason: str) -> None:
    batch = read_records(body(f'{{"records": [{{"id": 1}}, {{"a": {unreadable}}}, {{"id": 3}}]}}'))

    assert batch is not None
    assert batch.records == [(0, {"id": 1}), (2, {"id": 3})]
    [rejected] = batch.unreadable
    assert (rejected.ordinal, rejected.reason, rejected.raw) == (1, reason, f'{{"a": {unreadable}}}')


def test_a_malformed_array_is_one_unreadable_record() -> None:
    batch = read_records(body('{"records": [{"id": 1} {"id": 2}]}'))

    assert batch is not None
    assert [(rejected.reason, rejected.raw) for rejected in batch.unreadable] == [
        ("not_json", '[{"id": 1} {"id": 2}]')
    ]


NUMBER = r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,2})?"


@given(st.from_regex(NUMBER, fullmatch=True))
@example("100000000000000000.01")
@example("0.92156863212585449")
@example("1e308")
@example("1e-400")
@example("-0.0")
@example("1.10")
@example("18446744073709551616")
@example("9" * 4300)
def test_every_number_is_read_exactly(number: str) -> None:
    # An unreadable record, a NUL or neither: each way of reading.
    for other in ("NaN", '"\\u0000"', '"1e400"'):
        batch = read_records(body(f'{{"records": [[{number}], {other}]}}'))

        assert batch is not None
        [value] = batch.records[0][1]
        if number.lstrip("-").isdigit():
            assert value == int(number)
        else:
            assert msgspec.json.encode(value).decode() == number


@pytest.mark.parametrize("unreadable", ["", ', {"n": NaN}'])
def test_nul_and_lone_surrogates_are_replaced_and_counted(unreadable: str) -> None:
    records = (
        '[{"a\\u0000": "\\ud800x\\udc00", "pair": "\\ud83d\\ude00", "deep": [{"b": "\\u0000"}]}'
        + unreadable
        + "]"
    )

    batch = read_records(body(f'{{"records": {records}}}'))

    assert batch is not None
    assert batch.records[0][1] == {"a\ufffd": "\ufffdx\ufffd", "pair": "😀", "deep": [{"b": "\ufffd"}]}
    assert batch.replaced_characters == 4


def test_characters_are_replaced_at_any_readable_depth() -> None:
    deep = "[" * 900 + '"\\u0000"' + "]" * 900

    for records in (f"[{deep}]", f"[{deep}, NaN]"):
        batch = read_records(body(f'{{"records": {records}}}'))

        assert batch is not None
        assert json.dumps(batch.records[0][1]) == deep.replace("u0000", "ufffd")


@given(
    st.lists(
        st.sampled_from(["\0", "\ud83d", "\ude00", "\\", '"', "u0000", "ud83d", "\n", "é"]), max_size=12
    ).map("".join)
)
def test_exactly_the_unstorable_characters_are_replaced(text: str) -> None:
    batch = read_records(body(f'{{"records": [{json.dumps({text: text})}]}}'))

    whole = json.loads(json.dumps(text))  # a surrogate pair becomes one character
    cleaned, count = re.subn("[\0\ud800-\udfff]", "\ufffd", whole)
    assert batch is not None
    assert batch.records == [(0, {cleaned: cleaned})]
    assert batch.replaced_characters == 2 * count


def test_a_raw_nul_is_replaced_and_counted() -> None:
    batch = read_records(body('{"records": ["a\0b"]}'))

    assert batch is not None
    assert (batch.records, batch.replaced_characters) == ([(0, "a\ufffdb")], 1)


def test_an_escaped_backslash_before_u0000_is_not_replaced() -> None:
    batch = read_records(body('{"records": [{"a": "\\\\u0000"}]}'))

    assert batch is not None
    assert batch.records == [(0, {"a": "\\u0000"})]
    assert batch.replaced_characters == 0


def test_raw_line_breaks_and_broken_utf8_do_not_lose_a_record() -> None:
    batch = read_records(b'{"payload": {"records": [{"a": "x\ny\xff"}]}}')

    assert batch is not None
    assert batch.records == [(0, {"a": "x\ny\ufffd"})]
    assert batch.replaced_characters == 1


@pytest.mark.parametrize(
    ("key", "replaced"),
    [
        (b"a\\u0000", 1),
        (b"a\0", 1),
        (b"a\\ud800", 1),
        (b"a\xff", 1),
        (b"a\xfe", 1),
        (b"a\xed\xa0\x80", 3),
        (b"a\xe2\x82\xff", 2),
        (b"a\\ud83d\\ude00", 0),
        ("a\ufffd\U0001f600é".encode(), 0),
    ],
)
@pytest.mark.parametrize("other", [b"1", b"NaN"])
def test_the_original_of_a_record_with_replaced_characters_is_kept(
    key: bytes, replaced: int, other: bytes
) -> None:
    record = b'{"id": "' + key + b'"}'

    batch = read_records(b'{"payload": {"records": [' + other + b", " + record + b"]}}")

    assert batch is not None
    originals = {
        ordinal: original.encode(errors="surrogateescape") for ordinal, original in batch.originals.items()
    }
    assert originals == ({1: record} if replaced else {})
    assert batch.replaced_characters == replaced
    [value] = [value for ordinal, value in batch.records if ordinal == 1]
    assert value["id"].encode().count(b"\xef\xbf\xbd") == replaced + key.count("\ufffd".encode())


def test_characters_outside_the_records_are_not_counted() -> None:
    batch = read_records(b'{"id": "\\u0000", "a": "\xff", "payload": {"records": [{"id": 1}], "b": "\0"}}')

    assert batch is not None
    assert (batch.records, batch.replaced_characters, batch.originals) == ([(0, {"id": 1})], 0, {})


def test_the_raw_json_of_a_record_is_unchanged() -> None:
    text = body('{"records": [ {"id":1} , {"id": 2.50 }, NaN]}')

    assert read_raw_records(text, [1, 2]) == {1: '{"id": 2.50 }', 2: "NaN"}
    assert read_raw_records(text, []) == {}
    assert read_raw_records(body('{"record": {"id":  1}}'), [0]) == {0: '{"id":  1}'}


@given(
    st.lists(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.lists(inner, max_size=3)))
)
def test_records_are_read_as_json_reads_them(values: list[Any]) -> None:
    batch = read_records(json.dumps({"payload": {"records": values}}).encode())

    assert batch is not None
    assert [value for _, value in batch.records] == replace_nuls(values)


def replace_nuls(value: Any) -> Any:
    if isinstance(value, list):
        return [replace_nuls(item) for item in value]
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


@given(st.binary(max_size=100))
def test_arbitrary_bytes_never_raise_and_lose_no_ordinal(junk: bytes) -> None:
    for text in (junk, b'{"payload": {"records": [' + junk + b"]}}"):
        batch = read_records(text)
        ordinals = (
            [n for n, _ in batch.records] + [rejected.ordinal for rejected in batch.unreadable]
            if batch
            else []
        )
        assert sorted(ordinals) == list(range(len(ordinals)))
