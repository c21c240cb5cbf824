"""The request of a replay: its filter, and its key for resuming."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from app.store.delivery_filter import DeliveryFilter
from app.store.failures import FAILED_STATES
from app.times import parse_time

# Refused deliveries are replayed only if a request names their state: their runs were unwanted.
_DEFAULT_STATES = ("settled", "unrouted", "dead", "quarantined", "late")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """The deliveries to redeliver or forward.

    typed_times: `since` and `until` as a person typed them, such as "7d"; absolute times need no entry.
    sink: the only sink to write, "" for all. limit: the largest number of deliveries, None for all. rate: the
    largest number of deliveries to requeue or send a second, None for no limit; not a part of the key.
    """

    delivery_filter: DeliveryFilter
    typed_times: Mapping[str, str] = field(default_factory=dict)
    sink: str = ""
    limit: int | None = None
    rate: float | None = None

    @property
    def key(self) -> str:
        """The text that identifies equal requests, so that an interrupted replay is resumed.

        "7d" stays "7d": the same command typed an hour later is the same request.
        """
        parts = self.delivery_filter.to_values() | dict(self.typed_times)
        if self.sink:
            parts["into"] = self.sink
        if self.limit:
            parts["limit"] = self.limit
        return json.dumps(parts, sort_keys=True)

    @property
    def replay_states(self) -> Sequence[str]:
        """The states to redeliver: the requested ones, or all finished states except refused."""
        return tuple(self.delivery_filter.states) or _DEFAULT_STATES

    @property
    def includes_pending(self) -> bool:
        """Whether the request names pending deliveries, which workers deliver anyway."""
        return "pending" in self.delivery_filter.states

    def resolve(self, started_at: datetime) -> DeliveryFilter:
        """Return the filter of a replay that started at a time, with its states as requested.

        Deliveries received after the start are excluded, also when the replay is resumed later.
        """
        times: dict[str, Any] = {
            name: parse_time(text, now=started_at) for name, text in self.typed_times.items()
        }
        until = times.get("until", self.delivery_filter.until) or started_at
        times["until"] = min(until, started_at)
        return replace(self.delivery_filter, **times)

    def resolve_replayable(self, started_at: datetime) -> DeliveryFilter:
        """Return the filter as `resolve` does, limited to the states to redeliver."""
        return replace(self.resolve(started_at), states=self.replay_states)


def select_failed(delivery_filter: DeliveryFilter) -> DeliveryFilter:
    """Limit a filter without states to failed deliveries."""
    return replace(delivery_filter, states=delivery_filter.states or FAILED_STATES)


def select_dead_records(delivery_filter: DeliveryFilter) -> DeliveryFilter:
    """Limit a filter to settled deliveries with dead records; its reason is the records' reason."""
    return replace(
        delivery_filter,
        states=("settled",),
        reason="",
        has_dead_records=True,
        record_reason=delivery_filter.reason,
    )
