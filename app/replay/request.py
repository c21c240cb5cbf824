"""What a replay was asked for, so that the same again goes on where it was broken off."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import click

from app.cli.common.times import parse_time
from app.store.delivery_filter import DeliveryFilter

# What a replay is for: all that is at rest. What was refused never came in.
REPLAYABLE_STATES = ("settled", "unrouted", "dead", "quarantined", "late")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """What to replay. typed: `since` and `until` as they were typed. sink: the only one to write, or ""."""

    delivery_filter: DeliveryFilter
    typed_times: Mapping[str, str]
    sink: str
    limit: int | None

    @property
    def key(self) -> str:
        """Say it in the same words whenever the same is asked, whatever the time."""
        parts: dict[str, Any] = {
            name: sorted(map(str, value)) if isinstance(value, tuple | list) else value
            for name in DeliveryFilter.__dataclass_fields__
            if (value := self.typed_times.get(name) or getattr(self.delivery_filter, name))
        }
        parts |= {"into": self.sink} if self.sink else {}
        parts |= {"limit": self.limit} if self.limit else {}
        return json.dumps(parts, sort_keys=True)

    def resolve(
        self, started_at: datetime, *, default_states: Sequence[str] = REPLAYABLE_STATES
    ) -> DeliveryFilter:
        """Return what is chosen by a replay that began at this time, also where it goes on later.

        What comes after that is none of it. by_default: the states, where none is asked for.
        """
        times: dict[str, Any] = {
            name: parse_time(text, now=started_at) for name, text in self.typed_times.items()
        }
        times["until"] = min(times.get("until", started_at), started_at)
        states = self.delivery_filter.states or default_states
        return replace(self.delivery_filter, states=states, **times)


def drop_default_states(request: ReplayRequest, delivery_filter: DeliveryFilter) -> DeliveryFilter:
    """Return what is chosen, with what is left out of it for its state alone."""
    return replace(delivery_filter, states=request.delivery_filter.states)


def require_filter_or_all(delivery_filter: DeliveryFilter, *, everything: bool) -> None:
    """Refuse to take up everything by accident."""
    if delivery_filter.is_empty and not everything:
        raise click.UsageError("Choose deliveries, such as --state dead or --since 7d; or pass --all.")
    if everything and not delivery_filter.is_empty:
        raise click.UsageError("--all is for every delivery: leave it out, or what chooses some of them.")
