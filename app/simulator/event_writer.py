"""Writer of event bodies, with unique ids and increasing times."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from app.simulator.plan import Plan


@dataclass(frozen=True, slots=True)
class JobIds:
    """The ids that all runs of a plan share."""

    environment_id: str
    webhook_id: str
    sync_job_id: str


def make_job_ids(plan: Plan) -> JobIds:
    """Return the ids of a plan's environment, webhook and sync job; they depend on its seed."""
    rng = Random(f"{plan.seed}/job")  # noqa: S311  # repeatable, no secret
    environment_id, webhook_id, sync_job_id = (make_id(rng) for _ in range(3))
    return JobIds(environment_id, plan.webhook_id or webhook_id, sync_job_id)


def make_id(rng: Random) -> str:
    """Return the next random UUID; the same seed gives the same ids."""
    return str(UUID(int=rng.getrandbits(128), version=4))


class EventClock:
    """Source of event times, which never repeat: each is at least 1 ms later than the previous one."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._last: datetime | None = None

    def next_time(self) -> str:
        """Return the time of the next event, in ISO 8601 with milliseconds."""
        with self._lock:
            now = self._now()
            if self._last is not None:
                now = max(now, self._last + timedelta(milliseconds=1))
            self._last = _truncate_to_milliseconds(now)
            return format_time(self._last)

    def now(self) -> datetime:
        """Return the current time in milliseconds; unlike an event's time, it may repeat."""
        return _truncate_to_milliseconds(self._now())


def format_time(time: datetime) -> str:
    """Format a UTC time like Truto: ISO 8601 with milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def _truncate_to_milliseconds(time: datetime) -> datetime:
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


class EventWriter:
    """Writes the bodies of events to one webhook.

    rng: source of their ids, the same for the same seed. webhook_id: "" for the plan's. run_id: for events
    whose id is that of the run.
    """

    def __init__(
        self, rng: Random, clock: EventClock, plan: Plan, *, webhook_id: str = "", run_id: str = ""
    ) -> None:
        job = make_job_ids(plan)
        self._rng = rng
        self._clock = clock
        self._variants = plan.variants
        self._environment_id = job.environment_id
        self._webhook_id = webhook_id or job.webhook_id
        self._other_ids = {"run": run_id, "job": job.sync_job_id}

    def write_run_event(self, action: str, payload: Mapping[str, Any]) -> tuple[bytes, str]:
        """Return the body of a `sync_job_run:<action>` event, and its created_at."""
        return self.write_event(f"sync_job_run:{action}", payload)

    def write_event(self, event: str, payload: Mapping[str, Any]) -> tuple[bytes, str]:
        """Return the body of an event, and its created_at."""
        created_at = self._clock.next_time()
        if self._variants.created_at == "space":
            created_at = created_at.replace("T", " ").removesuffix("Z")
        own_id, is_of_run = make_id(self._rng), event.startswith("sync_job_run:")
        envelope: dict[str, Any] = {
            "id": self._other_ids.get(self._variants.event_id, own_id) if is_of_run else own_id,
            self._variants.event_name: event,
            "payload": payload,
            "environment_id": self._environment_id,
            "webhook_id": self._webhook_id,
            "created_at": created_at,
        }
        if self._variants.webhook_id == "missing":
            del envelope["webhook_id"]
        if self._variants.tenant_id == "present":
            envelope["tenant_id"] = self._environment_id
        return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode(), created_at
