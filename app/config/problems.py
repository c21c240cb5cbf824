"""Plain descriptions of invalid values in settings and routes."""

from collections.abc import Mapping
from typing import Any

_MAX_VALUE_CHARS = 40
_PHRASES = {
    "bool_parsing": "is not true or false",
    "bool_type": "is not true or false",
    "dict_type": "is not a table",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "int_from_float": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_type": "is not a whole number",
    "model_attributes_type": "is not a table",
    "model_type": "is not a table",
    "string_too_short": "is empty",
    "string_type": "is not a text in quotes",
    "tuple_type": "is not a list",
    "greater_than": "is not greater than {gt:g}",
    "greater_than_equal": "is less than the minimum, {ge}",
    "less_than_equal": "is greater than the maximum, {le}",
    "literal_error": "is not {expected}",
}


def quote_value(value: object) -> str:
    """Return a scalar as a routes file spells it, shortened; "the value" for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if not isinstance(value, str):
        return "the value"
    return f'"{value if len(value) <= _MAX_VALUE_CHARS else value[:_MAX_VALUE_CHARS] + "…"}"'


def describe_violation(detail: Mapping[str, Any], quoted_value: str) -> str:
    """Return a clause that says why a value is invalid, such as '"x" is not a whole number'.

    detail: one of pydantic's errors. quoted_value: see `quote_value`; "the value" for a secret.
    """
    if phrase := _PHRASES.get(detail["type"]):
        return f"{quoted_value} {phrase.format(**detail.get('ctx', {}))}"
    message: str = detail["msg"]
    if detail["type"] == "value_error":
        return message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]
