"""The sync job run, as lifecycle events and the API tell it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
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
    # Ours: of a run that was refused when it started, until Truto says more.
    "refused": 2,
    "deleted": 3,
}
# From here on, nothing more is to come of a run.
FINAL_RANK = 2
_STATUS_BY_ACTION = {"started": "running"}

# A field of another type than documented is None: it must not make the rest of the run unreadable.
_Text = Annotated[str | None, BeforeValidator(lambda value: as_text(value) or None)]
_Time = Annotated[datetime | None, BeforeValidator(as_time)]
_Object = Annotated[dict[str, Any] | None, BeforeValidator(lambda v: v if isinstance(v, dict) else None)]
_Flag = Annotated[bool | None, BeforeValidator(lambda value: value if isinstance(value, bool) else None)]
_Objects = Annotated[
    list[dict[str, Any]] | None,
    BeforeValidator(
        lambda v: [item for item in v if isinstance(item, dict)] if isinstance(v, list) else None
    ),
]


def _as_version(value: Any) -> int | None:
    text = as_text(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


class SyncJob(BaseModel):
    """The job a run belongs to; unknown fields are kept."""

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
    """One run of a sync job. All but the id may be missing; unknown fields and statuses are kept.

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
    """What Truto says it did for one resource and method, in records; None where it does not say."""

    fetched: int | None
    persisted: int | None

    @property
    def expected(self) -> int | None:
        """How many must have arrived: the greater number, where they contradict each other."""
        return max((count for count in (self.fetched, self.persisted) if count is not None), default=None)

    @property
    def undelivered(self) -> int:
        """How many were fetched, but not taken by the receiver."""
        return max(0, (self.fetched or 0) - self.persisted) if self.persisted is not None else 0


def read_run(value: Any) -> SyncJobRun | None:
    """Read a run from decoded JSON; None where it is no object or has no id.

    Members that could not be written as JSON again (nested too deep, lone surrogates) are left out.
    """
    run = {name: member for name, member in as_object(value).items() if _is_writable({name: member})}
    run_id = as_text(as_object(value).get("id"))
    return SyncJobRun.model_validate({**run, "id": run_id}) if run_id else None


def _is_writable(value: dict[str, Any]) -> bool:
    try:
        to_json(value)
    except ValueError:
        return False
    return True


def status_from_event(action: str, run: SyncJobRun | None) -> str:
    """Return the status a lifecycle event stands for.

    What the run itself says counts, unless the event's own name is more final: `stopped` may come as an event
    of its own or as `updated` (which of them: unconfirmed).
    """
    named = _STATUS_BY_ACTION.get(action, action if action in _STATUS_RANKS else "")
    run_status = run.status if run and run.status else ""
    if action == "rate_limited" and not is_final(run_status):
        return action
    return named if status_rank(named) > status_rank(run_status) else run_status


def status_rank(status: str) -> int:
    """Order statuses for events of the same moment: a later one never gives way to an earlier one."""
    return _STATUS_RANKS.get(status, 1 if status else -1)


def is_final(status: str) -> bool:
    """Whether nothing more is to come of a run in this status."""
    return status_rank(status) >= FINAL_RANK


def strip_run_details(run_json: str) -> str:
    """Return of a run's JSON what its totals need: how many records Truto counted, and nothing else."""
    stats: dict[str, dict[str, dict[str, int | None]]] = {}
    for (resource, method), counts in read_resource_stats(
        as_object(json.loads(run_json)).get("resource_stats")
    ).items():
        kept_counts = {"fetched": counts.fetched, "persisted": counts.persisted}
        stats.setdefault(resource, {})[method] = kept_counts
    return json.dumps({"resource_stats": stats})


def read_resource_stats(resource_stats: Mapping[str, Any] | None) -> dict[tuple[str, str], RecordCounts]:
    """Flatten a run's resource_stats to {(resource, method): Stats}; what is no count is None."""
    record_counts = {}
    for resource, methods in as_object(resource_stats).items():
        # One that is named without methods is one of which nothing is known.
        for method, counts in (methods if isinstance(methods, dict) else {"": None}).items():
            numbers = (as_count(as_object(counts).get(name)) for name in ("fetched", "persisted"))
            record_counts[resource, method] = RecordCounts(*numbers)
    return record_counts
