"""Findings on a terminal: a mark, what was found, and beneath it what to do."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

import click

from app.cli.doctor.finding import Finding, Level

_MARKS: dict[Level, str] = {"green": "ok", "yellow": "look", "red": "FAIL"}
_MARK_WIDTH, _CHECK_WIDTH = 6, 13
_WIDEST = 110


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the findings by room, then the sum of them."""
    for room, of_room in groupby(findings, key=lambda finding: finding.room):
        yield click.style(room, bold=True)
        for finding in of_room:
            yield from _lines(finding)
    yield ""
    yield _sum(findings)


def _lines(finding: Finding) -> Iterator[str]:
    indent = " " * (2 + _MARK_WIDTH + _CHECK_WIDTH)
    width = min(shutil.get_terminal_size().columns, _WIDEST) - len(indent)
    mark = click.style(_MARKS[finding.level].ljust(_MARK_WIDTH), fg=finding.level)
    first, *rest = _wrapped(finding.message, width)
    yield f"  {mark}{finding.check:{_CHECK_WIDTH}}{first}"
    yield from (indent + line for line in rest)
    if finding.advice:
        for number, line in enumerate(_wrapped(finding.advice, width - 3)):
            yield f"{indent}{'-> ' if not number else '   '}{line}"


def _wrapped(text: str, width: int) -> list[str]:
    # Commands and addresses are copied: they are not taken apart at their hyphens.
    return textwrap.wrap(text, max(width, 20), break_on_hyphens=False) or [""]


def _sum(findings: Sequence[Finding]) -> str:
    levels = [finding.level for finding in findings]
    red, yellow = levels.count("red"), levels.count("yellow")
    if red:
        return click.style(f"{red} to mend, {yellow} to look at, {levels.count('green')} fine.", fg="red")
    if yellow:
        return click.style(f"It works. {yellow} to look at, {levels.count('green')} fine.", fg="yellow")
    return click.style("Everything is set up.", fg="green")
