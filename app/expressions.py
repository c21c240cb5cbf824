"""JMESPath expressions of routes: the filter and the transformation of records; pure.

Numbers are compared and added as 64-bit floats, and written as they were sent. Source:
https://jmespath.org/specification.html.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions, signature
from jmespath.parser import ParsedResult

from app.truto.records import ExactDecimal, decimal_text, decode_json, to_json


class ExpressionError(ValueError):
    """An invalid expression, or one that fails for a record. The message contains no record data."""


class _Decimal(float):
    """A decimal of a record, with its text as it was sent."""

    __slots__ = ("text",)

    text: str


# JMESPath knows types by their names, and no subclasses.
_Decimal.__name__ = "float"


class _Functions(Functions):
    """JMESPath's own functions, without the loss of digits and with JSON's spelling of numbers only."""

    @signature({"types": []})
    def _func_to_string(self, value: Any) -> str:
        return value if isinstance(value, str) else to_json(_to_record_value(value))

    @signature({"types": []})
    def _func_to_number(self, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = _to_expression_value(decode_json(value))
            except (ValueError, RecursionError):
                return None
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


_OPTIONS = jmespath.Options(custom_functions=_Functions())


@cache
def compile_expression(expression: str) -> ParsedResult:
    """Parse an expression; raises ExpressionError if it is invalid, or calls an unknown function."""
    try:
        parsed = jmespath.compile(expression)
    except JMESPathError as error:
        position = getattr(error, "lex_position", None)
        place = "" if position is None else f" at column {position + 1}"
        raise ExpressionError(f"not a JMESPath expression{place}") from error
    for call in _find_calls(parsed.parsed):
        if call["value"] not in _Functions.FUNCTION_TABLE:
            raise ExpressionError(f"JMESPath has no function {call['value']}")
    return parsed


def is_selected(record: Any, expression: str) -> bool:
    """Whether a filter selects a record; raises ExpressionError. Null, false, "", [] and {} do not select."""
    value = _evaluate(record, expression)
    return value is not None and value is not False and value not in ("", [], {})


def transform(record: Any, expression: str) -> Any:
    """Return a new value for a record, each decimal as an ExactDecimal; raises ExpressionError."""
    return _to_record_value(_evaluate(record, expression))


def _evaluate(record: Any, expression: str) -> Any:
    parsed = compile_expression(expression)
    try:
        return parsed.search(_to_expression_value(record), options=_OPTIONS)
    except (JMESPathError, ArithmeticError, TypeError, ValueError, RecursionError) as error:
        # The text of the error may quote the record.
        raise ExpressionError(f"the expression fails ({type(error).__name__})") from error


def _find_calls(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if node.get("type") == "function_expression":
            yield node
        for child in node.get("children", ()):
            yield from _find_calls(child)


def _to_expression_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_expression_value(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_to_expression_value(item) for item in value]
    if isinstance(value, ExactDecimal):
        decimal = _Decimal(decimal_text(value))
        decimal.text = decimal_text(value)
        return decimal
    return value


def _to_record_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_record_value(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_to_record_value(item) for item in value]
    if isinstance(value, _Decimal):
        return ExactDecimal(value.text)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionError("the expression results in a number that JSON cannot represent")
        return ExactDecimal(repr(value))
    if value is not None and not isinstance(value, str | int):
        raise ExpressionError("the expression results in no JSON value")
    return value
