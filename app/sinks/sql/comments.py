"""Comments on the tables and columns of the SQL sink; pure."""

from collections.abc import Mapping

from app.config.routes import ColumnConfig
from app.sinks.sql.delete_tracking import SEEN_AT

_MAX_CHARS = 200
# By column: of those that every table has.
_COLUMNS = {
    "_account": "Integrated account",
    "_key": "Identifies the record in its integrated account",
    "data": "Newest data of the record; a deletion keeps it",
    "_version": "Time of the newest event of the record",
    "_vseq": "Orders versions with equal times",
    "_job": "Sync job of the newest event",
    "_run": "Sync job run of the newest event",
    "_method": "Method of the newest event",
    "_deleted_at": "Time of the deletion; NULL while the record exists",
    "_data_version": "Version of the data of a deleted record",
    "_data_vseq": "Orders versions of the data of a deleted record",
    "_first_seen_at": "Time of the first write",
    "_changed_at": "Time of the last change of the data",
    "_written_at": "Time of the last write",
    SEEN_AT: "Time at which the record was last received",
    "_meta": "Reasons of values that do not fit their columns",
}


def describe_table(resource: str) -> str:
    """Return the comment on the table of a resource."""
    return f"Records of {_shorten(resource)}, one row each, written by RapidBridge Receiver"


def describe_columns(columns: Mapping[str, ColumnConfig]) -> dict[str, str]:
    """Return the comments by column. columns: of the route."""
    own = {name: f"{_shorten(column.path or name)} of the record" for name, column in columns.items()}
    return {**own, **_COLUMNS}


def _shorten(name: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in name)[:_MAX_CHARS]
