"""Casting of record values to typed columns; pure."""

import math
import re
from collections.abc import Callable, Mapping
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from functools import partial
from typing import Any, NamedTuple

from app.config.routes import ColumnConfig
from app.truto.iso_time import read_time, to_utc
from app.truto.record_path import find_value
from app.truto.records import ExactDecimal, RawJson, decimal_text, encode_json, to_json

_BIGINT = 2**63
_BIGINT_DIGITS = 19
# Python also converts underscores and the digits of other scripts.
_WHITESPACE = " \t\r\n"
_INTEGER = re.compile(r"[+-]?[0-9]+")
# As JSON spells numbers.
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class DecimalLimits(NamedTuple):
    """The digits of a decimal column, before and after the point."""

    integer_digits: int
    fraction_digits: int


# Of PostgreSQL's numeric.
MAX_DECIMAL = DecimalLimits(131_072, 16_383)


class _CastError(ValueError):
    """A value that does not fit its column; the message is a short stable code."""


class ColumnCaster:
    """Casts values of records to the columns of a route. limits: of the database."""

    def __init__(self, columns: Mapping[str, ColumnConfig], limits: DecimalLimits = MAX_DECIMAL) -> None:
        casts: dict[str, Callable[[Any], Any]] = {**_CASTS, "decimal": partial(_cast_decimal, limits=limits)}
        self._casts = [(name, column.path or name, casts[column.type]) for name, column in columns.items()]

    def cast(self, record: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the values and the misfits of a record by column name.

        A value that does not fit becomes None, and its reason is a misfit.
        """
        values: dict[str, Any] = {}
        misfits: dict[str, str] = {}
        for name, path, cast in self._casts:
            value = find_value(record, path)
            try:
                values[name] = None if value is None else cast(value)
            except _CastError as misfit:
                values[name] = None
                misfits[name] = str(misfit)
            except RecursionError:
                values[name] = None
                misfits[name] = "too_deep"
        return values, misfits


def _cast_text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)


def _cast_integer(value: Any) -> int:
    number = value if type(value) is int else _read_integer(value)
    if not -_BIGINT <= number < _BIGINT:
        raise _CastError("out_of_range")
    return number


def _read_integer(value: Any) -> int:
    text = _read_number(value, _INTEGER)
    if text is None:
        raise _CastError("not_an_integer")
    try:
        number = Decimal(text)
    except InvalidOperation as error:  # an exponent below those of Decimal
        raise _CastError("not_an_integer") from error
    # Checked first: the integer of 1e999999 has a million digits.
    if number and number.adjusted() >= _BIGINT_DIGITS:
        raise _CastError("out_of_range")
    if number != number.to_integral_value():
        raise _CastError("not_an_integer")
    return int(number) if number else 0


def _cast_number(value: Any) -> float:
    text = _read_number(value, _NUMBER)
    if text is None:
        raise _CastError("not_a_number")
    number = float(text)
    is_rounded_to_zero = number == 0 and re.split("[eE]", text)[0].strip("+-0.") != ""
    if is_rounded_to_zero or not math.isfinite(number):
        raise _CastError("out_of_range")
    return number


def _cast_decimal(value: Any, limits: DecimalLimits) -> str:
    """Return all digits of a number as text, without an exponent."""
    text = _read_number(value, _DECIMAL)
    if text is None:
        raise _CastError("not_a_decimal")
    try:
        number = Decimal(text)
    except InvalidOperation as error:  # an exponent beyond those of Decimal
        raise _CastError("out_of_range") from error
    if not number:
        return "0"
    # Checked before it is written out: 1e999999999 has a gigabyte of digits.
    if number.adjusted() >= limits.integer_digits:
        raise _CastError("out_of_range")
    if _count_fraction_digits(number) > limits.fraction_digits:
        # Without the zeros at its end, the number may fit.
        number = number.normalize(Context(prec=len(text), Emin=MIN_EMIN, Emax=MAX_EMAX))
        if _count_fraction_digits(number) > limits.fraction_digits:
            raise _CastError("too_many_digits")
    return f"{number:f}"


def _count_fraction_digits(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    # An infinite number has none, and is never read.
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _read_number(value: Any, pattern: re.Pattern[str]) -> str | None:
    """Return the text of a number, or of a string that matches the pattern; None for anything else."""
    if isinstance(value, str):
        text = value.strip(_WHITESPACE)
        return text if pattern.fullmatch(text) else None
    if isinstance(value, ExactDecimal):
        return decimal_text(value)
    return to_json(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _cast_boolean(value: Any) -> bool:
    boolean = {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(boolean, bool):
        raise _CastError("not_a_boolean")
    return boolean


def _cast_timestamp(value: Any) -> str:
    try:
        time = to_utc(read_time(value))
    except (ValueError, OverflowError) as error:
        raise _CastError("not_a_timestamp") from error
    return time.isoformat(timespec="microseconds")


def _cast_date(value: Any) -> str:
    try:
        return read_time(value).date().isoformat()
    except ValueError as error:
        raise _CastError("not_a_date") from error


def _cast_json(value: Any) -> RawJson:
    return RawJson(encode_json(value))


_CASTS: Mapping[str, Callable[[Any], Any]] = {
    "text": _cast_text,
    "integer": _cast_integer,
    "number": _cast_number,
    "boolean": _cast_boolean,
    "timestamp": _cast_timestamp,
    "date": _cast_date,
    "json": _cast_json,
}
