"""Classification of the errors of dlt and its drivers, whose texts may quote records."""

from collections.abc import Iterator, Sequence
from typing import Any

from dlt.common.configuration.exceptions import (
    ConfigFieldMissingException,
    ConfigurationException,
)
from dlt.common.destination.exceptions import (
    DestinationTerminalException,
    DestinationUndefinedEntity,
)
from dlt.common.exceptions import MissingDependencyException
from dlt.common.schema.exceptions import SchemaException

from app.errors import SinkRefused

_REFUSED: Sequence[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = (
    (
        (MissingDependencyException, ImportError),
        "the driver of {destination} is not installed; run: pip install 'dlt[{destination}]'",
    ),
    (
        ConfigurationException,
        "the credentials are incomplete or invalid; correct `credentials` of the sink, or dlt's variables",
    ),
    (
        SchemaException,
        "a column of the route has another type than the table; set another name or `table` in the route",
    ),
    (
        DestinationTerminalException,
        "{destination} refuses the statement; check the rights of the credentials and the types of tables",
    ),
)


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return the answer for an error: whether a person has to act, and a message without data."""
    chain = list(_list_causes(error))
    names = " < ".join(dict.fromkeys(type(cause).__name__ for cause in chain))
    if any("Could not set lock" in str(cause) for cause in chain):
        return {"message": "another process has the file open; close it there, or open it read-only"}
    if isinstance(error, SinkRefused):
        return {"is_refused": True, "message": str(error)}
    if any(isinstance(cause, DestinationUndefinedEntity) for cause in chain):
        # A repeated load creates missing tables.
        return {"message": f"the dataset or a table is missing; let the credentials create it ({names})"}
    for classes, advice in _REFUSED:
        if any(isinstance(cause, classes) for cause in chain):
            return {"is_refused": True, "message": f"{advice} ({names}{_name_fields(chain)})"}
    advice = f"cannot be reached, or refuses the login ({names}); check `credentials` and the network"
    return {"message": f"{{destination}} {advice}"}


def _list_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = getattr(error, "exception", None) or error.__cause__ or error.__context__


def _name_fields(chain: Sequence[BaseException]) -> str:
    fields = {
        field for cause in chain if isinstance(cause, ConfigFieldMissingException) for field in cause.traces
    }
    return f": {', '.join(sorted(fields))}" if fields else ""
