"""Progress bar of a long command."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click exports the type nowhere else


def progress_bar(label: str, length: int) -> "ProgressBar[int]":
    """Show a bar if standard error is a terminal; its `update` takes the number of steps done since."""
    return click.progressbar(
        length=length,
        label=label,
        show_pos=True,
        # Drawing the bar a million times takes longer than the work itself.
        update_min_steps=max(1, length // 1000),
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    )
