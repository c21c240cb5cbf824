"""Untrusted JSON is read without the parts that cannot be read, and within a limit."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.truto.json_reader import JsonReader, read_object
from app.truto.json_scanner import scan_document, scan_object

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=5))
def test_sound_json_is_read_as_a_parser_reads_it(value: dict[str, object]) -> None:
    text = json.dumps(value)

    assert read_object(text.encode()) == json.loads(text.replace("\\u0000", "\\ufffd"))


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (b'{"a": "\t\xff\\ud800\\u0000\0", "b": 1}', {"a": "\t\ufffd\ufffd\ufffd\ufffd", "b": 1}),
        (b'{"a": {"b": ' + b"9" * 5000 + b', "c": [1, 01, {"d": 02, "e": 3}]}}', {"a": {"b": None, "c": [1, None, {"d": None, "e": 3}]}}),
        (b'{"a\\ud800\\u0000": {"\xff\0": 1, "b": 02}, "c": 1}', {"a\ufffd\ufffd": {"\ufffd\ufffd": 1, "b": None}, "c": 1}),
        (b'{"a": [1 2], "b": 1}', {"a": None, "b": 1}),
        (b'{"a": {"x" 1}, "b": 1}', {"a": None, "b": 1}),
        (b'\xef\xbb\xbf {"a": 1} ', {"a": 1}),
        (b"[1]", None),
        (b'{"a": 1', None),
        (b"", None),
    ],
)  # fmt: skip
def test_only_the_unreadable_parts_are_left_out(body: bytes, read: object) -> None:
    assert read_object(body) == read


def test_beyond_the_limit_the_smallest_members_are_read() -> None:
    body = (
        b'{"text": "' + b"x" * 9000 + b'", "array": [' + b"1," * 900 + b'1], "number": ' + b"1" * 5000
        + b', "object": {"id": 7, "text": "' + b"y" * 9000 + b'"}, "small": [1]}'
    )  # fmt: skip

    read = JsonReader(1000).read_value(scan_document(body))

    text, object_text = read.pop("text"), read["object"].pop("text")
    assert read == {"array": None, "number": None, "object": {"id": 7}, "small": [1]}
    assert set(text) == {"x"}
    assert set(object_text) == {"y"}
    assert 4000 < len(text) < 4100


def test_beyond_the_limit_short_texts_and_numbers_are_whole() -> None:
    body = (
        b'{"a": "'
        + b"x" * 200
        + b'", "b": "'
        + b"y" * 3000
        + b'", "c": 1'
        + b"0" * 300
        + b', "d": ['
        + b"1," * 99
        + b"1]}"
    )

    read = JsonReader(100).read_value(scan_document(body))

    assert read == {"a": "x" * 200, "b": "y" * 3000, "c": 10**300, "d": None}


def test_of_an_object_beyond_the_limit_only_named_members_are_read() -> None:
    body = b'{"meta": {"id": 1, "other": 2, "text": "' + b"x" * 2000 + b'"}}'

    read = JsonReader(1000).read_members(scan_object(scan_document(body)), frozenset({"id"}))

    assert read == {"meta": {"id": 1}}
