"""What the commands about dead deliveries choose from."""

from typing import Any

import click

from app.cli.common.options import build_delivery_filter
from app.store.delivery_filter import DeliveryFilter
from app.store.failures import FAILED_STATES


def build_failure_filter(options: dict[str, Any], *, more_states: tuple[str, ...] = ()) -> DeliveryFilter:
    """Return what the options choose; states in which nothing is stranded are wrong usage."""
    delivery_filter = build_delivery_filter(options)
    if unexpected := set(delivery_filter.states) - {*FAILED_STATES, *more_states}:
        raise click.UsageError(
            f"--state {min(unexpected)}: here it can be {', '.join((*FAILED_STATES, *more_states))}."
        )
    return delivery_filter
