"""Names of the tables and views of a resource. Pure."""

import hashlib
from typing import NamedTuple

from app.config.routes import Route
from app.sinks.sql.tables import table_name

_CHANGES = "_changes"
# dlt's own tables.
_RESERVED_PREFIX = "_dlt"


class TableNames(NamedTuple):
    """The table with all versions of the records, and the view of the newest ones."""

    changes: str
    view: str


def name_tables(resource: str, route: Route) -> TableNames:
    """Return the names for a resource. The view has the name of a SQL sink's table.

    A name that is one of a table of versions or of dlt's, or begins with a digit, ends in a hash.
    """
    name = table_name(resource, route)
    if name.endswith(_CHANGES) or name.startswith(_RESERVED_PREFIX) or name[0].isdigit():
        name = f"r_{name[:50].strip('_')}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return TableNames(f"{name}{_CHANGES}", name)
