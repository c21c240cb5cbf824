"""How far a long command has come."""

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar  # click names its type nowhere else


def progress_bar(label: str, length: int) -> "AbstractContextManager[ProgressBar[int]]":
    """Show a bar where standard error is a terminal; its `update` takes how much more is done."""
    return click.progressbar(
        length=length,
        label=label,
        show_pos=True,
        # Drawn a million times, it takes longer than what it is about.
        update_min_steps=max(1, length // 1000),
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    )
