"""Start replays and discards that continue in the background, whoever asks for them."""

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from app.clock import utc_now
from app.config.delivery_config import DeliveryConfig
from app.database.engine import Database
from app.replay.current_workers import require_current_workers
from app.replay.request import ReplayRequest
from app.store.delivery_filter import DeliveryFilter
from app.store.operations import NewOperation, Operation, OperationKind, Operations, Requester
from app.store.replays import Replays

_NAMES_OF_TIMES = {"since": "received since", "until": "received before", "settled_until": "failed before"}


@dataclass(frozen=True, slots=True)
class OperationRequest:
    """The work of an operation, with absolute times.

    sink, limit, rate: of a replay, see ReplayRequest. because: the operator's reason for a discard.
    """

    delivery_filter: DeliveryFilter
    sink: str = ""
    limit: int | None = None
    rate: float | None = None
    because: str = ""

    def to_json(self) -> str:
        """Return the text that is stored with an operation."""
        values: dict[str, Any] = {
            name: value for name in ("sink", "limit", "rate", "because") if (value := getattr(self, name))
        }
        return json.dumps({"filter": self.delivery_filter.to_values(), **values}, sort_keys=True)

    def describe(self) -> dict[str, str]:
        """Return the conditions and the limits that are set, as texts by name."""
        values = self.delivery_filter.to_values()
        cause = values.pop("cause", {})
        if cause and cause["state"] in values.get("states", ()):
            del values["states"]
        values |= {"limit": self.limit, "rate": self.rate, "to sink": self.sink, "because": self.because}
        texts = {
            _NAMES_OF_TIMES.get(name, name.replace("_", " ")): _describe_value(name, value)
            for name, value in values.items()
            if value
        }
        # A cause has empty members that are conditions.
        return texts | {f"exact {name}": text or "(none)" for name, text in cause.items()}

    def as_subject(self) -> str:
        """Return the conditions as one line for the audit log."""
        return "; ".join(f"{name}: {value}" for name, value in self.describe().items()) or "all"

    @classmethod
    def from_json(cls, text: str) -> "OperationRequest":
        """Return the request of which `to_json` made a text."""
        values = json.loads(text)
        return cls(DeliveryFilter.from_values(values.pop("filter")), **values)


def _describe_value(name: str, value: Any) -> str:
    if name in _NAMES_OF_TIMES:
        return f"{datetime.fromisoformat(value):%Y-%m-%d %H:%M:%S} UTC"
    return ", ".join(value) if isinstance(value, list) else str(value)


def start_replay(
    database: Database,
    request: ReplayRequest,
    *,
    requester: Requester,
    config: DeliveryConfig,
    total: int | None = None,
    restart: bool = False,
    now: datetime | None = None,
) -> Operation:
    """Start a replay, or return the unfinished one of the same request; raises StoreUnavailable.

    Deliveries received later are excluded. config: of this process; workers must have the same. total: the
    number of deliveries, None if it was not counted. restart: cancel the unfinished one first.
    Raises OperationRefused if a running worker has another configuration, or too many operations are
    unfinished.
    """
    now = now or utc_now()
    require_current_workers(database, config, now=now)
    unfinished = None if restart else Replays(database).find_unfinished(request.key)
    delivery_filter = request.resolve_replayable(unfinished.started_at if unfinished else now)
    work = OperationRequest(delivery_filter, request.sink, request.limit, request.rate)
    new = NewOperation(
        OperationKind.REPLAY, work.to_json(), request.key, requester, total, config=config.digest
    )
    return Operations(database).start(new, now=now, restart=restart)


def start_discard(
    database: Database,
    delivery_filter: DeliveryFilter,
    *,
    of_records: bool = False,
    because: str,
    requester: Requester,
    total: int | None = None,
    now: datetime | None = None,
) -> Operation:
    """Start to discard failed deliveries, or return the unfinished discard of the same request.

    Deliveries received later, or replayed meanwhile, are excluded. of_records: discard dead records of
    settled deliveries instead. because: the operator's reason. Raises StoreUnavailable and OperationRefused.
    """
    now = now or utc_now()
    key = json.dumps([delivery_filter.to_values(), because], sort_keys=True)
    limited = replace(
        delivery_filter,
        until=min(delivery_filter.until or now, now),
        settled_until=min(delivery_filter.settled_until or now, now),
    )
    kind = OperationKind.DISCARD_RECORDS if of_records else OperationKind.DISCARD
    request = OperationRequest(limited, because=because).to_json()
    return Operations(database).start(NewOperation(kind, request, key, requester, total), now=now)


def cancel_operation(database: Database, operation_id: UUID, *, now: datetime | None = None) -> bool:
    """Cancel an operation; return False if it had ended already. Raises StoreUnavailable.

    The part that is done stays. Deliveries that a replay has requeued are delivered.
    """
    return Operations(database).cancel(operation_id, now=now or utc_now())
