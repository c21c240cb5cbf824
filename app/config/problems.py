"""Plain descriptions of invalid values in settings and routes."""

import re
from collections.abc import Iterable, Mapping
from datetime import date, time
from typing import Any

_MAX_VALUE_CHARS = 40
_PHRASES = {
    "bool_parsing": "is not true or false",
    "bool_type": "is not true or false",
    "dict_type": "is not a table",
    "finite_number": "is not a finite number",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "greater_than": "is not greater than {gt:.15g}",
    "greater_than_equal": "is less than the minimum, {ge:.15g}",
    "int_from_float": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_parsing_size": "has too many digits",
    "int_type": "is not a whole number",
    "less_than_equal": "is greater than the maximum, {le:.15g}",
    "literal_error": "is not {expected}",
    "model_attributes_type": "is not a table",
    "model_type": "is not a table",
    "string_pattern_mismatch": "has characters that are not allowed here",
    "string_too_long": "is longer than {max_length} characters",
    "string_too_short": "is empty",
    "string_type": "is not a text in quotes",
    "tuple_type": "is not a list",
}


def quote_value(value: object) -> str:
    """Return a value as a routes file spells it, shortened; of a table only its kind, of a URL its scheme."""
    if isinstance(value, str) and ("://" in value or "whsec_" in value):
        # Probably a secret at the wrong place: a login, or the path of an incoming webhook.
        return f'"{scheme}"' if (scheme := shorten_to_scheme(value)) else "the value"
    if isinstance(value, str):
        return f'"{_shorten(escape_unprintable(value))}"'
    if isinstance(value, list):
        # A table in it may contain a secret.
        is_flat = not any(isinstance(item, list | dict) for item in value)
        return f"[{_shorten(', '.join(map(quote_value, value)))}]" if is_flat else "a list of tables or lists"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, int) and abs(value) >= 10**_MAX_VALUE_CHARS:
        return "a number of many digits"
    return str(value).lower() if isinstance(value, int | float | date | time) else "the value"


def shorten_to_scheme(url: str) -> str:
    """Return the scheme of a URL, such as mysql://…; "" for a text without one."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{1,20}://", url)
    return f"{scheme[0]}…" if scheme else ""


def escape_unprintable(text: str) -> str:
    """Return a text with escapes for line breaks, control characters and bytes that are no UTF-8."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def find_unusable_character(text: str, *, allowed: str = "") -> str | None:
    """Return a clause about the first unprintable character of a text; None without one.

    allowed: characters to pass over. The clause does not quote the text.
    """
    for position, character in enumerate(text, start=1):
        if character.isprintable() or character in allowed:
            continue
        if "\ud800" <= character <= "\udfff":
            return f"contains a byte that is not UTF-8, at character {position}"
        if character in "\r\n":
            return f"contains a line break, at character {position}"
        return f"contains the invisible character U+{ord(character):04X}, at character {position}"
    return None


def describe_violation(detail: Mapping[str, Any], quoted_value: str) -> str:
    """Return a clause that says why a value is invalid, such as '"x" is not a whole number'.

    detail: one of pydantic's errors. quoted_value: see `quote_value`; "the value" for a secret.
    """
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "value_error":
        message: str = detail["msg"]
        return message.removeprefix("Value error, ")
    return f"{quoted_value} {_PHRASES.get(kind, 'is not allowed here').format(**context)}"


def name_value(text: str, quoted_value: str) -> str:
    """Return a sentence that names the present value, unless the text does so or the value is a secret."""
    if quoted_value == "the value" or quoted_value in text:
        return ""
    return f" Present value: {quoted_value}."


def escape_all(problems: Iterable[str]) -> list[str]:
    """Return messages that cannot move a terminal's cursor, and that any terminal can show."""
    return [escape_unprintable(problem) for problem in problems]


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_VALUE_CHARS else text[:_MAX_VALUE_CHARS] + "…"
