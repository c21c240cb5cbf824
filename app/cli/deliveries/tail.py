"""rapidbridge deliveries tail."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from app.cli.common.options import filters, selection_of
from app.cli.common.output import clock, printable
from app.cli.deliveries.asking import AS_JSON, open_for_person
from app.cli.deliveries.telling import to_json, what
from app.database.engine import Store
from app.store.delivery_filter import Found, Selection, find

_EVERY_S = 1.0
# One that came earlier may be committed later, by another process.
_OVERLAP = timedelta(seconds=5)
_ON_ARRIVAL = ("pending", "quarantined", "refused")


@click.command()
@filters
@AS_JSON
def tail(*, as_json: bool, **options: Any) -> None:
    """Follow what arrives, a line each, until Ctrl-C. With --since, begin with what came since then.

    Each is shown once, as it stands when it is first seen.

    \b
    Examples:
      rapidbridge deliveries tail --resource 'crm/*'
      rapidbridge deliveries tail --since 10m --json
    """
    selection = selection_of(options)
    if selection.until:
        raise click.UsageError("--until: this has no end; see `deliveries list`.")
    if not set(selection.states) <= set(_ON_ARRIVAL):
        told = ", ".join(_ON_ARRIVAL)
        raise click.UsageError(f"--state: what arrives is {told}; for others see `deliveries list`.")
    follower = Follower(open_for_person(), selection, since=selection.since or datetime.now(UTC))
    with suppress(KeyboardInterrupt):
        while True:
            for found in follower.look(now=datetime.now(UTC)):
                click.echo(to_json(asdict(found)) if as_json else _line(found))
            time.sleep(_EVERY_S)


class Follower:
    """Finds what has arrived since the last look, each delivery once, also one that was committed late."""

    def __init__(self, store: Store, selection: Selection, *, since: datetime) -> None:
        self._store = store
        self._selection = selection
        self._from = since
        self._seen: dict[UUID, datetime] = {}

    def look(self, *, now: datetime) -> Iterator[Found]:
        """Yield what is new; raises StoreUnavailable."""
        newest = self._from
        for found in find(self._store, replace(self._selection, since=self._from)):
            newest = found.received_at
            if found.id not in self._seen:
                self._seen[found.id] = found.received_at
                yield found
        # No clock that is ahead of this one may hide what comes next.
        self._from = max(self._from, min(newest, now) - _OVERLAP)
        self._seen = {each: at for each, at in self._seen.items() if at >= self._from}


def _line(found: Found) -> str:
    told = (
        clock(found.received_at),
        str(found.id),
        found.state,
        what(found),
        f"{found.body_bytes:,} bytes",
        printable(found.reason),
    )
    return "  ".join(told).rstrip()
