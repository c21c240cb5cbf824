"""The column with the time at which a record was last seen; pure."""

from collections.abc import Mapping
from datetime import UTC

from app.config.routes import ColumnConfig, Route
from app.sinks.base import Batch

# When the newest batch with the record was received, whatever its version; NULL before deletes were tracked.
SEEN_AT = "_seen_at"


def list_columns(route: Route) -> Mapping[str, ColumnConfig]:
    """Return the columns that a route adds to its table."""
    tracking = {SEEN_AT: ColumnConfig(type="timestamp")} if route.track_deletes else {}
    return {**route.columns, **tracking}


def build_tracking_values(batch: Batch, route: Route) -> Mapping[str, str | None]:
    """Return the values of the further columns, equal in all rows of a batch."""
    if not route.track_deletes:
        return {}
    # A deletion shows that the source no longer has the record.
    received_at = batch.received_at.astimezone(UTC).isoformat(timespec="microseconds")
    return {SEEN_AT: None if batch.is_deletion else received_at}
