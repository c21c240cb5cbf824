"""rapidbridge deliveries tail."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from app.cli.common.options import build_delivery_filter, filter_options
from app.cli.common.output import format_time, replace_control_chars
from app.cli.deliveries.asking import JSON_OPTION, open_interactive_store
from app.cli.deliveries.telling import describe_delivery, to_json
from app.database.engine import Database
from app.store.delivery_filter import DeliveryFilter, DeliverySummary, find_deliveries

_POLL_INTERVAL_S = 1.0
# One that came earlier may be committed later, by another process.
_OVERLAP = timedelta(seconds=5)
_ARRIVAL_STATES = ("pending", "quarantined", "refused")


@click.command()
@filter_options
@JSON_OPTION
def tail(*, as_json: bool, **options: Any) -> None:
    """Follow what arrives, a line each, until Ctrl-C. With --since, begin with what came since then.

    Each is shown once, as it stands when it is first seen.

    \b
    Examples:
      rapidbridge deliveries tail --resource 'crm/*'
      rapidbridge deliveries tail --since 10m --json
    """
    delivery_filter = build_delivery_filter(options)
    if delivery_filter.until:
        raise click.UsageError("--until: this has no end; see `deliveries list`.")
    if not set(delivery_filter.states) <= set(_ARRIVAL_STATES):
        states = ", ".join(_ARRIVAL_STATES)
        raise click.UsageError(f"--state: what arrives is {states}; for others see `deliveries list`.")
    follower = Follower(
        open_interactive_store(), delivery_filter, since=delivery_filter.since or datetime.now(UTC)
    )
    with suppress(KeyboardInterrupt):
        while True:
            for delivery in follower.find_new_deliveries(now=datetime.now(UTC)):
                click.echo(to_json(asdict(delivery)) if as_json else _format_line(delivery))
            time.sleep(_POLL_INTERVAL_S)


class Follower:
    """Finds what has arrived since the last look, each delivery once, also one that was committed late."""

    def __init__(self, store: Database, delivery_filter: DeliveryFilter, *, since: datetime) -> None:
        self._store = store
        self._filter = delivery_filter
        self._since = since
        self._seen_ids: dict[UUID, datetime] = {}

    def find_new_deliveries(self, *, now: datetime) -> Iterator[DeliverySummary]:
        """Yield what is new; raises StoreUnavailable."""
        newest = self._since
        for delivery in find_deliveries(self._store, replace(self._filter, since=self._since)):
            newest = delivery.received_at
            if delivery.id not in self._seen_ids:
                self._seen_ids[delivery.id] = delivery.received_at
                yield delivery
        # No clock that is ahead of this one may hide what comes next.
        self._since = max(self._since, min(newest, now) - _OVERLAP)
        self._seen_ids = {delivery_id: at for delivery_id, at in self._seen_ids.items() if at >= self._since}


def _format_line(delivery: DeliverySummary) -> str:
    cells = (
        format_time(delivery.received_at),
        str(delivery.id),
        delivery.state,
        describe_delivery(delivery),
        f"{delivery.body_bytes:,} bytes",
        replace_control_chars(delivery.reason),
    )
    return "  ".join(cells).rstrip()
