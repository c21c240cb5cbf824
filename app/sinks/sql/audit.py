"""Reading a sink's rows back, to compare them with expected records."""

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import inspect, text

from app.config.routes import Route
from app.database.engine import open_engine, translate_errors
from app.sinks.sql.merge import quote
from app.sinks.sql.tables import table_name


def read_rows(url: str, resource: str, route: Route) -> Iterator[tuple[str, str, Any]]:
    """Yield (account, key, record) of every row of a resource; raises StoreUnavailable."""
    engine = open_engine(url)
    table = table_name(resource, route)
    statement = text(f'SELECT "_account", "_key", "data" FROM {quote(table)}')  # noqa: S608  # a quoted name
    try:
        with translate_errors(engine), engine.connect() as connection:
            if not inspect(connection).has_table(table):
                return
            for account, key, data in connection.execution_options(yield_per=1000).execute(statement):
                yield account, key, json.loads(data) if isinstance(data, str) else data
    finally:
        engine.dispose()
