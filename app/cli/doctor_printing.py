"""Findings on a terminal: a mark, what was found, and beneath it what to do."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

import click

from app.checks.check_result import CheckLevel, CheckResult
from app.cli.common.output import replace_control_chars

_MARKS: dict[CheckLevel, str] = {"green": "ok", "yellow": "look", "red": "FAIL"}
_MARK_WIDTH, _CHECK_WIDTH = 6, 13
_MAX_WIDTH = 110


def result_lines(results: Sequence[CheckResult]) -> Iterator[str]:
    """Yield the findings by room, then the sum of them."""
    for component, component_results in groupby(results, key=lambda result: result.component):
        yield click.style(component, bold=True)
        for result in component_results:
            yield from _format_result(result)
    yield ""
    yield _format_summary(results)


def _format_result(result: CheckResult) -> Iterator[str]:
    indent = " " * (2 + _MARK_WIDTH + _CHECK_WIDTH)
    width = min(shutil.get_terminal_size().columns, _MAX_WIDTH) - len(indent)
    mark = click.style(_MARKS[result.level].ljust(_MARK_WIDTH), fg=result.level)
    first, *rest = _wrap_text(result.message, width)
    yield f"  {mark}{result.check:{_CHECK_WIDTH}}{first}"
    yield from (indent + line for line in rest)
    if result.advice:
        for number, line in enumerate(_wrap_text(result.advice, width - 3)):
            yield f"{indent}{'-> ' if not number else '   '}{line}"


def _wrap_text(text: str, width: int) -> list[str]:
    # Keep commands and addresses whole at hyphens: people copy them.
    shown = replace_control_chars(" ".join(text.split()))
    return textwrap.wrap(shown, max(width, 20), break_on_hyphens=False) or [""]


def _format_summary(results: Sequence[CheckResult]) -> str:
    levels = [result.level for result in results]
    failures, warnings = levels.count("red"), levels.count("yellow")
    if failures:
        return click.style(
            f"{failures} to mend, {warnings} to look at, {levels.count('green')} fine.", fg="red"
        )
    if warnings:
        return click.style(f"It works. {warnings} to look at, {levels.count('green')} fine.", fg="yellow")
    return click.style("Everything is set up.", fg="green")
