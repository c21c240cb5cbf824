"""Results of checks for a terminal."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import click

from app.checks.check_result import CheckLevel, CheckResult
from app.cli.common.output import replace_control_chars
from app.cli.common.program import name_program

_COLOURS: dict[CheckLevel, str] = {"ok": "green", "warn": "yellow", "fail": "red"}
_LEVEL_WIDTH, _CHECK_WIDTH = 6, 13
_MAX_WIDTH = 110


def format_results(results: Sequence[CheckResult], *, port: int) -> Iterator[str]:
    """Yield the lines of results, grouped by component. port: of the receiver that hints name."""
    for component, component_results in groupby(results, key=lambda result: result.component):
        yield click.style(replace_control_chars(component), bold=True)
        for result in component_results:
            yield from _format_result(_name_program(result, port=port))
    yield ""


def format_summary(results: Sequence[CheckResult]) -> str:
    """Return the number of results of each level."""
    levels = [result.level for result in results]
    worst: CheckLevel = next((level for level in reversed(_COLOURS) if level in levels), "ok")
    counts = ", ".join(f"{levels.count(level)} {level}" for level in _COLOURS)
    return click.style(f"{counts}.", fg=_COLOURS[worst])


def _name_program(result: CheckResult, *, port: int) -> CheckResult:
    """Return a result whose hints run as the user called the program."""
    return replace(
        result,
        message=name_program(result.message, port=port),
        advice=name_program(result.advice, port=port),
    )


def _format_result(result: CheckResult) -> Iterator[str]:
    indent = " " * (2 + _LEVEL_WIDTH + _CHECK_WIDTH)
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH) - len(indent)
    level = click.style(result.level.ljust(_LEVEL_WIDTH), fg=_COLOURS[result.level])
    first, *rest = _wrap_text(result.message, width)
    yield f"  {level}{result.check:{_CHECK_WIDTH}}{first}"
    yield from (indent + line for line in rest)
    if result.advice:
        for number, line in enumerate(_wrap_text(result.advice, width - 3)):
            yield f"{indent}{'-> ' if not number else '   '}{line}"


def _wrap_text(text: str, width: int) -> list[str]:
    # Keep commands and URLs whole at hyphens: people copy them.
    shown = replace_control_chars(" ".join(text.split()))
    return textwrap.wrap(shown, max(width, 20), break_on_hyphens=False) or [""]
