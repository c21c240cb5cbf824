"""rapidbridge deliveries tail."""

import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import click

from app.cli.common.clients import open_interactive_database
from app.cli.common.filters import FilterCommand, build_delivery_filter, filter_options
from app.cli.common.options import json_option
from app.cli.common.output import describe_event, print_json, shorten
from app.clock import utc_now
from app.store.delivery_feed import DeliveryFeed
from app.store.delivery_filter import DeliverySummary

_POLL_INTERVAL_S = 1.0
_MAX_SUBJECT_WIDTH, _MAX_REASON_WIDTH = 32, 38
_INITIAL_STATES = ("pending", "quarantined", "refused")


@click.command(cls=FilterCommand)
@filter_options
@json_option
def tail(*, as_json: bool, **options: Any) -> None:
    """Print deliveries as they are received, until Ctrl-C.

    Every delivery is printed once, with its state at that moment. --since starts with earlier deliveries.

    \b
    Examples:
      rapidbridge deliveries tail --resource 'crm/*'
      rapidbridge deliveries tail --since 10m --json
    """
    delivery_filter = build_delivery_filter(options)
    if delivery_filter.until:
        raise click.UsageError("--until: tail has no end; use `rapidbridge deliveries list`.")
    if not set(delivery_filter.states) <= set(_INITIAL_STATES):
        raise click.UsageError(
            f"--state: a new delivery is {', '.join(_INITIAL_STATES)}; "
            "for other states use `rapidbridge deliveries list`."
        )
    feed = DeliveryFeed(
        open_interactive_database(), delivery_filter, since=delivery_filter.since or utc_now()
    )
    with suppress(KeyboardInterrupt):
        while True:
            for delivery in feed.find_new_deliveries(now=utc_now()):
                if as_json:
                    print_json(asdict(delivery))
                else:
                    click.echo(_format_delivery(delivery))
            time.sleep(_POLL_INTERVAL_S)


def _format_delivery(delivery: DeliverySummary) -> str:
    size = f"{delivery.body_bytes:,} bytes"
    subject = shorten(describe_event(delivery.event, delivery.resource, delivery.method), _MAX_SUBJECT_WIDTH)
    reason = shorten(delivery.reason, _MAX_REASON_WIDTH)
    # The id gets its own line: the first line would be wider than 80 columns with it.
    return (
        f"{delivery.received_at:%m-%d %H:%M:%S}  {delivery.state}  {size}  {subject}\n"
        + f"  {delivery.id}  {reason}".rstrip()
    )
