"""The preview of a replay: deliveries included and left out, by group."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.replay.request import ReplayRequest
from app.store.replays import PreviewGroup, Replay, Replays


@dataclass(frozen=True, slots=True)
class ReplayPreview:
    """Counts of the deliveries that a request matches.

    groups: all matching deliveries, also those left out. states: the states to include, empty for all.
    limit: the largest number to include, None for all. unfinished: the interrupted replay to resume.
    """

    groups: Sequence[PreviewGroup]
    states: Sequence[str]
    limit: int | None
    unfinished: Replay | None = None

    @property
    def included_groups(self) -> list[PreviewGroup]:
        """The groups to redeliver or forward, before the limit."""
        return [group for group in self.groups if self._is_included(group)]

    @property
    def total(self) -> int:
        """The number of deliveries to redeliver or forward, within the limit."""
        total = sum(group.deliveries for group in self.included_groups)
        return total if self.limit is None else min(total, self.limit)

    @property
    def is_limited(self) -> bool:
        """Whether the limit excludes some of the included groups' deliveries."""
        return self.total < sum(group.deliveries for group in self.included_groups)

    @property
    def left_out(self) -> Counter[str]:
        """The number of matching deliveries left out: "pruned", or by state."""
        reasons: Counter[str] = Counter()
        for group in self.groups:
            if not self._is_included(group):
                reasons["pruned" if group.is_pruned else group.state] += group.deliveries
        return reasons

    def as_json(self) -> dict[str, Any]:
        """Return the preview as JSON values."""
        return {
            "deliveries": self.total,
            "groups": [
                {
                    "resource": group.resource,
                    "method": group.method,
                    "state": group.state,
                    "deliveries": group.deliveries,
                }
                for group in self.included_groups
            ],
            "left_out": dict(self.left_out),
        }

    def _is_included(self, group: PreviewGroup) -> bool:
        return not group.is_pruned and (not self.states or group.state in self.states)


def preview_replay(
    replays: Replays, request: ReplayRequest, *, now: datetime, restart: bool = False
) -> ReplayPreview:
    """Count the deliveries that a replay would requeue; raises StoreUnavailable.

    An interrupted replay of the same request is resumed, so only its remaining deliveries count.
    restart: ignore an interrupted replay.
    """
    unfinished = None if restart else replays.find_unfinished(request.key)
    delivery_filter = request.resolve(unfinished.started_at if unfinished else now)
    groups = replays.preview(delivery_filter, after=unfinished.cursor if unfinished else None)
    limit = request.limit
    if limit is not None and unfinished:
        limit -= unfinished.requeued_deliveries
    return ReplayPreview(groups, request.replay_states, limit, unfinished)


def preview_forward(replays: Replays, request: ReplayRequest, *, now: datetime) -> ReplayPreview:
    """Count the deliveries that would be sent to another receiver; raises StoreUnavailable."""
    groups = replays.preview(request.resolve(now), after=None)
    return ReplayPreview(groups, request.delivery_filter.states, request.limit)
