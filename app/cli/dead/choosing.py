"""What the commands about dead deliveries choose from."""

from typing import Any

import click

from app.cli.common.options import selection_of
from app.store.delivery_filter import Selection
from app.store.failures import STRANDED


def stranded_of(options: dict[str, Any], *, more_states: tuple[str, ...] = ()) -> Selection:
    """Return what the options choose; states in which nothing is stranded are wrong usage."""
    selection = selection_of(options)
    if strange := set(selection.states) - {*STRANDED, *more_states}:
        raise click.UsageError(
            f"--state {min(strange)}: here it can be {', '.join((*STRANDED, *more_states))}."
        )
    return selection
