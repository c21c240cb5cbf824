"""Every value is cast to its column exactly, or named as a misfit."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from app.config.routes import ColumnConfig
from app.sinks.sql.columns import ColumnCaster, DecimalLimits
from app.truto.record_path import find_value


def cast(kind: str, value: Any) -> Any:
    """The value in a column of this type, or the reason why it does not fit."""
    values, misfits = ColumnCaster({"c": ColumnConfig.model_validate({"type": kind})}).cast({"c": value})
    assert (values["c"] is None) == bool(misfits)
    return misfits.get("c", values["c"])


OTHER_DIGITS = ["\u0661\u0662", "\uff11\uff12", "\u0967\u0968"]
BIGINT = 2**63
NO_NUMBERS: list[Any] = [
    *("1_0.5", "1_0", *OTHER_DIGITS, "1.5 junk", "1,5", "0x1p3", "nan", "inf", "-Infinity", "", ".", "e5"),
    *("\u066b5", True, []),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12, 12),
        ("12", 12),
        (" -12\n", -12),
        ("+007", 7),
        (Raw("12.0"), 12),
        (Raw("1.2e1"), 12),
        (Raw("-0.0"), 0),
        (Raw("0e999999999"), 0),
        (Raw("9007199254740993.00"), 2**53 + 1),
        (12.0, 12),
        (BIGINT - 1, BIGINT - 1),
        (str(-BIGINT), -BIGINT),
        *(
            (value, "out_of_range")
            for value in (BIGINT, str(BIGINT), Raw(f"{BIGINT}.0"), Raw("1e300"), "9" * 5000, -BIGINT - 1)
        ),
        *(
            (value, "not_an_integer")
            for value in (
                "12_34",
                *OTHER_DIGITS,
                "1_0.5",
                "12.0",
                "1e3",
                "0x10",
                "12 34",
                "\u00a012",
            )
        ),
        *((value, "not_an_integer") for value in ("", " ", "-", "true", "nan", "²", "12\x00")),
        *((value, "not_an_integer") for value in (Raw("1.5"), Raw("1e-400"), 1.5, True, [1], {"a": 1})),
        (Raw("1e-99999999999999999999"), "not_an_integer"),
    ],
)
def test_an_integer_is_cast_exactly_or_is_a_misfit(value: Any, expected: Any) -> None:
    assert cast("integer", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12, 12.0),
        (Raw("0.5"), 0.5),
        (Raw("-0.0"), 0.0),
        (" 1.5e3 ", 1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0e5", 0.0),
        *((value, "out_of_range") for value in ("1e400", "-1e400", Raw("1e-400"), "0.1E-400", 10**400)),
        *((value, "not_a_number") for value in NO_NUMBERS),
    ],
)
def test_a_number_is_cast_or_is_a_misfit(value: Any, expected: Any) -> None:
    assert cast("number", value) == expected


TIME = "2026-03-29T10:00:00.000000+00:00"
NO_TIMES: list[Any] = [
    *("2026-03-29 junk", "2026-03-29T10:00:00Z junk", "2026-03-29_10:00:00", "2026-03-29x10:00", "2026-3-29"),
    *("\u0662\u0660\u0662\u0666-03-29", "2026-W13-7", "2026-02-30", "2026-03-29T24:00:00", "2026_03_29"),
    *("0000-01-01", "10000-01-01", "2026-03-29T", "2026-03-29T10:00:60Z", "2026-03-29T10:00:00+99:00"),
    *("2026-03-29T10:00:00.", "0001-01-01T00:00:00+01:00", "", "soon", 1774778400, Raw("1.5"), True),
]
NO_DATES: list[Any] = [
    *("2026-03-29 junk", "2026-03-29junk", "2026-03-29T99:00:00", "2026-03-290", "29.03.2026", "2026-W13-7"),
    *("\u0662\u0660\u0662\u0666-03-29", "2026-02-30", "", 20260329, [], True),
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-29T10:00:00Z", TIME),
        (" 2026-03-29t10:00:00z ", TIME),
        ("2026-03-29 12:00:00+02:00", TIME),
        ("2026-03-29T10:00", TIME),
        ("20260329T100000Z", TIME),
        ("2026-03-29T11:30:00+0130", TIME),
        ("2026-03-29", TIME.replace("10:00:00.", "00:00:00.")),
        ("2026-03-29T10:00:00.1234567Z", TIME.replace(".000000", ".123456")),
        *((value, "not_a_timestamp") for value in NO_TIMES),
    ],
)
def test_a_timestamp_in_iso_8601_is_cast_and_nothing_else(value: Any, expected: str) -> None:
    assert cast("timestamp", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-03-29", "2026-03-29"),
        (" 20260329", "2026-03-29"),
        # The date as written, in the offset of its sender.
        ("2026-03-29T23:00:00-05:00", "2026-03-29"),
        *((value, "not_a_date") for value in NO_DATES),
    ],
)
def test_a_date_in_iso_8601_is_cast_and_nothing_else(value: Any, expected: str) -> None:
    assert cast("date", value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        ("FALSE", False),
        *((value, "not_a_boolean") for value in (1, 0, "1", "yes", "", Raw("1.0"))),
    ],
)
def test_a_boolean_is_cast_and_nothing_else(value: Any, expected: Any) -> None:
    assert cast("boolean", value) is expected or cast("boolean", value) == expected


def test_numbers_in_text_are_the_json_as_sent() -> None:
    assert cast("text", Raw("100000000000000000.010")) == "100000000000000000.010"
    assert cast("text", {"a": [Raw("1.10")]}) == '{"a":[1.10]}'


@pytest.mark.parametrize("kind", ["json", "text"])
def test_a_value_nested_too_deeply_for_a_column_is_a_misfit(kind: str) -> None:
    value: Any = []
    for _ in range(200_000):
        value = [value]

    assert cast(kind, value) == "too_deep"


@given(st.text(max_size=8), st.sampled_from(["integer", "number", "timestamp", "date"]))
def test_no_text_with_other_characters_is_cast(value: str, kind: str) -> None:
    result = cast(kind, value)

    is_ascii = value.strip(" \t\r\n").isascii() and "_" not in value
    assert (
        is_ascii
        or result
        == {
            "integer": "not_an_integer",
            "number": "not_a_number",
            "timestamp": "not_a_timestamp",
            "date": "not_a_date",
        }[kind]
    )


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", {"b": 1, "c.d": [{"e": 2}]}),
        ("a.b", 1),
        ("a.c.d", [{"e": 2}]),
        ("x.y", 3),
        ("x", None),
        ("list.0", "first"),
        ("list.1.z", "second"),
        ("list.-1", None),
        ("list.\u0660", None),
        ("list.2", None),
        ("a.b.c", None),
        ("a.", None),
        ("", None),
    ],
)
def test_a_path_prefers_the_longest_member_name(path: str, expected: Any) -> None:
    record = {"a": {"b": 1, "c.d": [{"e": 2}]}, "x.y": 3, "list": ["first", {"z": "second"}]}

    assert find_value(record, path) == expected


def cast_decimal(value: Any, *limits: int) -> Any:
    column = {"c": ColumnConfig(type="decimal")}
    caster = ColumnCaster(column, *([DecimalLimits(*limits)] if limits else []))
    values, misfits = caster.cast({"c": value})
    return misfits.get("c", values["c"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (12, "12"),
        (Raw("67.17411800000001"), "67.17411800000001"),
        (Raw("1.10"), "1.10"),
        (Raw("1E5"), "100000"),
        (Raw("-1.5e-3"), "-0.0015"),
        (Raw("-0.0"), "0"),
        (Raw("0e-999999999"), "0"),
        ("123456789012345678901234567890.123456789", "123456789012345678901234567890.123456789"),
        (" -7.50\n", "-7.50"),
        (0.5, "0.5"),
        *((text, "not_a_decimal") for text in ("+1", ".5", "5.", "007", "1e", "1_000", "1,5", "0x1", "NaN")),
        *((value, "not_a_decimal") for value in (*NO_NUMBERS, [1], {"a": 1})),
        *((text, "out_of_range") for text in ("1e131072", "1e999999999", "-1e99999999999999999999")),
        *((text, "too_many_digits") for text in ("1e-16384", "1e-999999999", "1.5e-999999")),
        ("1e-99999999999999999999", "out_of_range"),
        ("1e131071", "1" + "0" * 131071),
    ],
)
def test_a_decimal_is_cast_with_all_digits_or_is_a_misfit(value: Any, expected: Any) -> None:
    assert cast_decimal(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("9" * 35 + "." + "1" * 30, "9" * 35 + "." + "1" * 30),
        ("1" + "0" * 35, "out_of_range"),
        ("0." + "1" * 31, "too_many_digits"),
        ("1." + "1" * 29 + "000", "1." + "1" * 29),
        ("1e-30", "0." + "0" * 29 + "1"),
    ],
)
def test_a_decimal_fits_the_digits_of_its_database_without_rounding(value: str, expected: str) -> None:
    assert cast_decimal(value, 35, 30) == expected


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20))
def test_a_decimal_has_the_value_of_its_number(number: Decimal) -> None:
    assert Decimal(cast_decimal(Raw(str(number)))) == number
