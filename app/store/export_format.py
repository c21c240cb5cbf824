"""One exported delivery as a line of JSON; pure."""

import json
from base64 import b64encode
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

FORMAT = "rapidbridge.delivery/1"


@dataclass(frozen=True, slots=True)
class Exported:
    """A delivery as an export holds it. body: the bytes that were signed."""

    id: UUID
    received_at: datetime
    event_id: str
    event: str
    webhook_id: str
    environment_id: str
    sync_job_id: str
    sync_job_run_id: str
    integrated_account_id: str
    resource: str
    method: str
    created_at: datetime | None
    state: str
    reason: str
    body: bytes


def write_line(delivery: Exported) -> bytes:
    """Return a delivery as one line; a body that is no UTF-8 stands in `body_base64` instead of `body`."""
    told: dict[str, Any] = {"format": FORMAT}
    told |= {name: getattr(delivery, name) for name in delivery.__slots__ if name != "body"}
    try:
        told["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        told["body_base64"] = b64encode(delivery.body).decode()
    return json.dumps(told, ensure_ascii=False, default=_text).encode() + b"\n"


def _text(value: datetime | UUID) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
