"""The tables of the store.

All names begin with `rapidbridge_`, because the default SQL sink writes its tables into the same database.
A test compares these tables with the result of `migrations/`.
"""

from app.store.schema.column_types import (
    PREFIX,
    VERSION_TABLE,
    SafeText,
    UtcDateTime,
    metadata,
    replace_unstorable,
)
from app.store.schema.delivery_tables import (
    dead_records,
    deliveries,
    delivery_attempts,
    record_errors,
    sink_outcomes,
)
from app.store.schema.load_tables import loads
from app.store.schema.notification_tables import notification_deliveries, notifications
from app.store.schema.operation_tables import audit_log, operations, replays
from app.store.schema.run_tables import delete_checks, runs, syncs
from app.store.schema.service_tables import (
    arrivals,
    column_misfits,
    encryption_keys,
    response_counts,
    sink_states,
    webhook_events,
    work_totals,
    workers,
)

__all__ = [
    "PREFIX",
    "VERSION_TABLE",
    "SafeText",
    "UtcDateTime",
    "arrivals",
    "audit_log",
    "column_misfits",
    "dead_records",
    "delete_checks",
    "deliveries",
    "delivery_attempts",
    "encryption_keys",
    "loads",
    "metadata",
    "notification_deliveries",
    "notifications",
    "operations",
    "record_errors",
    "replace_unstorable",
    "replays",
    "response_counts",
    "runs",
    "sink_outcomes",
    "sink_states",
    "syncs",
    "webhook_events",
    "work_totals",
    "workers",
]
