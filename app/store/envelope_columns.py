"""An envelope as columns of the deliveries table, and back."""

from collections.abc import Mapping
from typing import Any

from app.store.schema import deliveries
from app.truto.events import Envelope

ENVELOPE_COLUMNS = (
    deliveries.c.event_id,
    deliveries.c.event,
    deliveries.c.webhook_id,
    deliveries.c.environment_id,
    deliveries.c.sync_job_id,
    deliveries.c.sync_job_run_id,
    deliveries.c.integrated_account_id,
    deliveries.c.resource,
    deliveries.c.method,
    deliveries.c.created_at,
)
# `to_envelope` needs these as well: they tell which ids a worker added.
SOURCE_COLUMNS = (deliveries.c.account_source, deliveries.c.run_source)


def to_columns(envelope: Envelope) -> dict[str, Any]:
    """Return an envelope's values by the names of their columns."""
    # Written out: this runs for every POST, and a loop over attribute names costs three times as much.
    return {
        "event_id": envelope.event_id,
        "event": envelope.event,
        "webhook_id": envelope.webhook_id,
        "environment_id": envelope.environment_id,
        "sync_job_id": envelope.sync_job_id,
        "sync_job_run_id": envelope.sync_job_run_id,
        "integrated_account_id": envelope.integrated_account_id,
        "resource": envelope.resource,
        "method": envelope.method,
        "created_at": envelope.created_at,
    }


def to_envelope(row: Mapping[Any, Any]) -> Envelope:
    """Return the event's own ids from a row that holds ENVELOPE_COLUMNS and SOURCE_COLUMNS."""
    return Envelope(
        event_id=row["event_id"],
        event=row["event"],
        created_at=row["created_at"],
        webhook_id=row["webhook_id"],
        environment_id=row["environment_id"],
        sync_job_run_id="" if row["run_source"] else row["sync_job_run_id"],
        sync_job_id=row["sync_job_id"],
        integrated_account_id="" if row["account_source"] else row["integrated_account_id"],
        resource=row["resource"],
        method=row["method"],
    )
