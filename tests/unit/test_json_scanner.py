"""The scanner locates every value in any JSON without parsing it."""

import json
import shutil
import string
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.truto.json_scanner import (
    JsonSpan,
    NotJson,
    count_items,
    scan_array,
    scan_document,
    scan_items,
    scan_object,
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=30,
)


def rebuild(span: JsonSpan) -> object:
    """Build a value from its spans alone."""
    if span.is_object:
        return {name: rebuild(value) for name, value in scan_object(span).items()}
    if span.is_array and scan_array(span) != [span]:  # a broken array is its own item
        return [rebuild(item) for item in scan_array(span)]
    return json.loads(span.raw)


@given(values, st.sampled_from([None, 1]), st.booleans(), st.text(string.whitespace[:4], max_size=3))
def test_spans_rebuild_the_value_that_a_parser_reads(
    value: object, indent: int | None, ascii_only: bool, padding: str
) -> None:
    text = padding + json.dumps(value, indent=indent, ensure_ascii=ascii_only) + padding

    assert rebuild(scan_document(text.encode())) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "}",
        "[",
        '"',
        '"\\',
        "[1, 2",
        '{"a"',
        '{"a":',
        '{"a": }',
        "{1: 2}",
        "1 2",
        "[1]]",
        ":",
    ],
)
def test_text_without_the_outline_of_json_raises_not_json(text: str) -> None:
    def scan() -> object:
        span = scan_document(text.encode())
        return scan_object(span) if span.is_object else list(scan_array(span))

    with pytest.raises(NotJson):
        scan()


@pytest.mark.parametrize("text", ["[1 2]", "[,]", "[1,]"])
def test_a_malformed_array_is_one_item(text: str) -> None:
    assert [item.raw for item in scan_array(scan_document(text.encode()))] == [text]


def test_the_last_of_equal_names_wins() -> None:
    assert scan_object(scan_document(b'{"a": 1, "a": 2}'))["a"].raw == "2"


def test_an_escaped_name_is_decoded() -> None:
    assert scan_object(scan_document(b'{"rec\\u006frds": 1}')).keys() == {"records"}


@given(st.text(alphabet='[]{}",:\\ 1atrue', max_size=60))
def test_arbitrary_text_is_scanned_like_json_or_rejected(text: str) -> None:
    rebuilt = None
    try:
        rebuilt = rebuild(scan_document(text.encode()))
        is_json = json.loads(text) is not None
    except (NotJson, ValueError):
        is_json = False
    assert not is_json or rebuilt == json.loads(text)


def test_brackets_and_quotes_inside_strings_do_not_end_a_value() -> None:
    span = scan_document(rb'{"a": ["]", "}\"]", {"\\": "["}], "b": 2}')

    members = scan_object(span)

    assert members["a"].raw == r'["]", "}\"]", {"\\": "["}]'
    assert members["b"].raw == "2"


def test_any_depth_and_size_is_scanned() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    long = '"' + 'a\\"' * 3_000_000 + '"'
    span = scan_document(f'{{"deep": {deep}, "long": {long}, "last": 1}}'.encode())

    members = scan_object(span)

    assert members["deep"].raw == deep
    assert members["long"].raw == long
    assert members["last"].raw == "1"


def test_whitespace_of_any_length_is_skipped() -> None:
    space = b" \n" * 100_000
    text = space.join(
        [b"", b"{", b'"a"', b":", b"[", b"1", b",", b"2", b"]", b",", b'"b"', b":", b"3", b"}", b""]
    )

    members = scan_object(scan_document(text))

    assert [item.raw for item in scan_array(members["a"])] == ["1", "2"]
    assert members["b"].raw == "3"


FRAGMENTS = [
    "1",
    "{}",
    '{"a]": "}\\"{"}',
    "[[[]]]",
    '"\\\\"',
    '"' + "]" * 700 + '"',
    '{"' + "[" * 90_000 + '": "' + '\\"' * 90_000 + '"}',
    '{"' + "é\\u0041" * 90 + '": [' + '"\\\\",' * 90 + "0]}",
    "[" * 40 + "]" * 40,
    "[" + "{}," * 900 + "{}]",
    " " * 70_000 + "[ ]",
]


@given(st.lists(st.integers(0, len(FRAGMENTS) - 1), min_size=1, max_size=20))
def test_values_of_any_length_end_at_their_own_bracket(numbers: list[int]) -> None:
    fragments = [FRAGMENTS[number] for number in numbers]
    array = f"[{','.join(fragments)}]".encode()

    span = scan_document(b'{"a": ' + array + b', "b": [' + array + b"]}")

    members = scan_object(span)
    assert members["a"].raw_bytes == array
    assert [item.raw for item in scan_array(members["a"])] == [text.strip() for text in fragments]
    assert [item.raw_bytes for item in scan_array(members["b"])] == [array]


@pytest.mark.parametrize("item", ["{}", "1", '"a,]"', '{"a": [{"b": [1]}]}', "[[[[[[1]]]]]]"])
@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_items_are_counted_and_read_from_any_place(item: str, count: int) -> None:
    array = scan_document(f"[ {' , '.join([item] * count)} ]".encode())

    assert count_items(array) == count
    for first in (0, 1, 999, 1000, 1001, 2000, 2500):
        items = [span.raw for span in scan_items(array, first=first)]
        assert items == [item] * max(0, count - first)


@pytest.mark.parametrize("first", [0, 1, 999, 1000, 1500, 1999, 2000, 4999])
def test_items_after_a_deep_one_are_counted_and_read_from_any_place(first: int) -> None:
    items = [str(number) for number in range(5000)]
    items[1500] = "[[[[[[[]]]]]]]"
    array = scan_document(f"[{','.join(items)}]".encode())

    assert count_items(array) == 5000
    assert [span.raw for span in scan_items(array, first=first)] == items[first:]


def test_one_deep_item_does_not_slow_down_the_others() -> None:
    shallow = scan_document(f"[{','.join(['1'] * 300_000)}]".encode())
    one_deep = scan_document(f"[[[[[[[]]]]]],{','.join(['1'] * 300_000)}]".encode())

    def measure_s(array: JsonSpan) -> float:
        began = time.process_time()
        count_items(array)
        return time.process_time() - began

    assert min(measure_s(one_deep) for _ in range(3)) < 5 * min(measure_s(shallow) for _ in range(3))


@pytest.mark.parametrize("text", ["{}", "1", "[1 2]", f"[{'1,' * 1000}]", f"[{'1,' * 1000}1 1]"])
def test_a_malformed_array_is_not_counted(text: str) -> None:
    with pytest.raises(NotJson):
        count_items(scan_document(text.encode()))


def test_the_system_python_finds_the_same_ends() -> None:
    """Debian 12 has Python 3.11.2, whose possessive quantifiers match too much."""
    python = shutil.which("python3", path="/usr/bin")
    if python is None or subprocess.run([python, "-c", "import tomllib"], check=False).returncode:
        pytest.skip("no Python 3.11 or newer in /usr/bin")
    array = f"[{','.join(FRAGMENTS)}]".encode()
    # Not as a module of `app`, so that no dependency is needed.
    script = (
        "import runpy, sys\n"
        "scanner = runpy.run_path(sys.argv[1])\n"
        "span = scanner['scan_document'](sys.stdin.buffer.read())\n"
        "print([(item.start, item.end) for item in scanner['scan_array'](span)])"
    )
    path = sys.modules[scan_array.__module__].__file__

    ends = subprocess.run(
        [python, "-I", "-c", script, str(path)], input=array, capture_output=True, check=True
    )

    expected = [(item.start, item.end) for item in scan_array(scan_document(array))]
    assert ends.stdout.decode().strip() == str(expected)
    assert len(expected) == len(FRAGMENTS)
