"""Sync job runs as Truto's lifecycle events and API describe them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import to_json

from app.truto.coerce import as_count, as_object, as_text, as_time

_STATUS_RANKS = {
    "created": 0,
    "running": 1,
    "rate_limited": 1,
    "completed": 2,
    "failed": 2,
    "stopped": 2,
    # Our own status of a run that we refused at its start, until Truto reports another.
    "refused": 2,
    "deleted": 3,
}
RUN_STATUSES = tuple(_STATUS_RANKS)
# A run of this rank or above has ended.
FINAL_RANK = 2
# A new status is kept as it came, but lists and log lines show it.
_MAX_STATUS_CHARS = 200
_STATUS_BY_ACTION = {"started": "running"}

# A field of an undocumented type becomes None, so that it does not make the rest of the run unreadable.
_Text = Annotated[str | None, BeforeValidator(lambda value: as_text(value) or None)]
_Time = Annotated[datetime | None, BeforeValidator(as_time)]
_Object = Annotated[
    dict[str, Any] | None, BeforeValidator(lambda value: value if isinstance(value, dict) else None)
]
_Flag = Annotated[bool | None, BeforeValidator(lambda value: value if isinstance(value, bool) else None)]
_Objects = Annotated[
    list[dict[str, Any]] | None,
    BeforeValidator(
        lambda value: [item for item in value if isinstance(item, dict)] if isinstance(value, list) else None
    ),
]


def _as_version(value: Any) -> int | None:
    text = as_text(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


class SyncJob(BaseModel):
    """The sync job of a run. Unknown fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: _Text = None
    integration_name: _Text = None
    args_schema: _Object = None
    resources: _Objects = None
    environment_id: _Text = None
    created_at: _Time = None
    updated_at: _Time = None


def _as_job(value: Any) -> SyncJob | None:
    return SyncJob.model_validate(value) if isinstance(value, dict) else None


class SyncJobRun(BaseModel):
    """One run of a sync job. Only the id is required; unknown fields and statuses are kept.

    resource_stats: {resource: {method: {"fetched": n, "persisted": n}}}. Times are aware UTC.
    Source: docs/protocol.md, "The sync job run".
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str
    args: _Object = None
    resources: _Objects = None
    sync_job_id: _Text = None
    integrated_account_id: _Text = None
    status: _Text = None
    daemon_id: _Text = None
    daemon_group_key: _Text = None
    webhook_id: _Text = None
    error_handling: _Text = None
    ignore_previous_run: _Flag = None
    version: Annotated[int | None, BeforeValidator(_as_version)] = None
    resource_stats: _Object = None
    created_at: _Time = None
    updated_at: _Time = None
    started_at: _Time = None
    finished_at: _Time = None
    sync_job: Annotated[SyncJob | None, BeforeValidator(_as_job)] = None


@dataclass(frozen=True, slots=True)
class RecordCounts:
    """Truto's record counts for one resource and method; None if Truto does not report a count."""

    fetched: int | None
    persisted: int | None

    @property
    def expected(self) -> int | None:
        """The number of records that must have arrived: the larger count if the two differ."""
        return max((count for count in (self.fetched, self.persisted) if count is not None), default=None)

    @property
    def undelivered(self) -> int:
        """The number of records that were fetched, but not accepted by the receiver."""
        return max(0, (self.fetched or 0) - self.persisted) if self.persisted is not None else 0


def read_run(value: Any) -> SyncJobRun | None:
    """Read a run from decoded JSON; None if it is not an object or has no id.

    Members that cannot be serialized again (nested too deep, lone surrogates) are left out.
    """
    run = _keep_serializable(as_object(value), levels=2)
    run_id = as_text(as_object(value).get("id"))
    return SyncJobRun.model_validate({**run, "id": run_id}) if run_id else None


def _keep_serializable(members: dict[str, Any], *, levels: int) -> dict[str, Any]:
    """Return the members that can be serialized, and those of the objects among the others. levels: depth."""
    kept = {}
    for name, member in members.items():
        if _is_serializable({name: member}):
            kept[name] = member
        elif levels > 1 and isinstance(member, dict) and _is_serializable({name: None}):
            kept[name] = _keep_serializable(member, levels=levels - 1)
    return kept


def _is_serializable(value: dict[str, Any]) -> bool:
    try:
        to_json(value)
    except ValueError:
        return False
    return True


def status_from_event(action: str, run: SyncJobRun | None) -> str:
    """Return the status of a run after a lifecycle event.

    The run's own status counts, unless the event's name ranks higher: Truto may report a stop by the event
    `stopped` or by `updated` (unconfirmed).
    """
    status_by_name = _STATUS_BY_ACTION.get(action, action if action in _STATUS_RANKS else "")
    run_status = (run.status or "")[:_MAX_STATUS_CHARS] if run else ""
    if action == "rate_limited" and not is_final(run_status):
        return action
    return status_by_name if status_rank(status_by_name) > status_rank(run_status) else run_status


def status_rank(status: str) -> int:
    """Rank a status among events of the same time: a lower rank never replaces a higher one."""
    return _STATUS_RANKS.get(status, 1 if status else -1)


def is_final(status: str) -> bool:
    """Whether a run with this status has ended."""
    return status_rank(status) >= FINAL_RANK


def read_events_to_send(run: Mapping[str, Any]) -> list[str]:
    """Return the only events that a run sends, from its decoded JSON; [] for all."""
    names = run.get("events_to_send")
    return list(filter(None, map(as_text, names))) if isinstance(names, list) else []


def sends_event(events_to_send: Sequence[str], action: str) -> bool:
    """Whether a run sends `sync_job_run:<action>`; an empty list sends all.

    The list may have names with or without `sync_job_run:`, and `*` patterns: unconfirmed.
    """
    if not events_to_send or "all" in events_to_send:
        return True
    names = (action, f"sync_job_run:{action}")
    return any(fnmatchcase(name, pattern) for name in names for pattern in events_to_send)


def strip_run_details(run_json: str) -> str:
    """Reduce a run's JSON to the members that its reconciliation needs after an erasure."""
    run = as_object(json.loads(run_json))
    events_to_send = read_events_to_send(run)
    stats: dict[str, dict[str, dict[str, int | None]]] = {}
    for (resource, method), counts in read_resource_stats(run.get("resource_stats")).items():
        stats.setdefault(resource, {})[method] = {"fetched": counts.fetched, "persisted": counts.persisted}
    kept = {"resource_stats": stats} | ({"events_to_send": events_to_send} if events_to_send else {})
    return json.dumps(kept)


def read_resource_stats(resource_stats: Mapping[str, Any] | None) -> dict[tuple[str, str], RecordCounts]:
    """Flatten a run's resource_stats to {(resource, method): counts}; an invalid count is None."""
    record_counts = {}
    for resource, methods in as_object(resource_stats).items():
        # A resource without methods has unknown counts.
        for method, counts in (methods if isinstance(methods, dict) else {"": None}).items():
            numbers = (as_count(as_object(counts).get(name)) for name in ("fetched", "persisted"))
            record_counts[resource, method] = RecordCounts(*numbers)
    return record_counts
