"""Suggestions for misspelt values of options."""

import difflib
from collections.abc import Iterable
from typing import Any

import click

from app.store.reasons import Reason

_SIMILARITY = 0.7


def suggest(value: str, known: Iterable[str]) -> str:
    """Return a question that names the known value most like this one; "" if none is."""
    matches = difflib.get_close_matches(value.lower(), known, n=1, cutoff=_SIMILARITY)
    return f" Did you mean {matches[0]}?" if matches else ""


class SuggestingChoice(click.Choice[str]):
    """A choice whose error names the choice most like the value."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        return super().get_invalid_choice_message(value, ctx) + suggest(str(value), self.choices)


def check_reason(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """Refuse a misspelt reason code, as a click callback. Reasons of refused runs may be any text."""
    codes = [code.value for code in Reason]
    if value and value not in codes and (suggestion := suggest(value, codes)):
        raise click.BadParameter(f"{value!r} is not a known reason.{suggestion}")
    return value
