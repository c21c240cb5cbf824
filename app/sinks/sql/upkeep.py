"""Upkeep of a sink's tables in the background: indexes and live views.

A table is created with both. Tables of earlier releases, and those whose index was interrupted, get them
here: an index on a large table takes longer than a delivery may wait.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.config.routes import Route
from app.database.engine import autocommit, diagnose_for, open_engine
from app.database.inspection import missing_file
from app.errors import SinkUnavailable
from app.sinks.sql.delete_tracking import list_columns
from app.sinks.sql.dialect import Dialect
from app.sinks.sql.live_views import ensure_view
from app.sinks.sql.set_up import find_table_problems
from app.sinks.sql.sink import choose_dialect
from app.sinks.sql.tables import SinkTables, table_name


def keep_tables(url: str, routes: Sequence[Route], *, schema: str = "") -> None:
    """Create missing indexes and views of the tables that routes write to.

    A missing SQLite file is not created. Raises SinkUnavailable for the last error, after all tables.
    """
    if missing_file(url):
        return
    engine = open_engine(url, schema=schema, interactive=True)
    dialect = choose_dialect(engine)
    failure: SinkUnavailable | None = None
    try:
        for table, resource in SinkTables(engine, dialect, schema).list_tables().items():
            writing = [route for route in routes if _writes(route, resource, table)]
            try:
                _keep_table(engine, dialect, table, writing)
            except SQLAlchemyError as error:
                diagnosis = diagnose_for(error, engine, schema=schema)
                failure = SinkUnavailable(f"table {table}: its index or view was not created: {diagnosis}")
    except (SQLAlchemyError, UnicodeError) as error:
        raise SinkUnavailable(str(diagnose_for(error, engine, schema=schema))) from error
    finally:
        engine.dispose()
    if failure:
        raise failure


def _writes(route: Route, resource: str, table: str) -> bool:
    return fnmatchcase(resource, route.resource) and table_name(resource, route) == table


def _keep_table(engine: Engine, dialect: Dialect, table: str, routes: Sequence[Route]) -> None:
    with engine.begin() as connection:
        dialect.limit_lock_wait(connection)
        if not routes or dialect.find_relation_kind(connection, table) != "table":
            return
        ensure_view(connection, dialect, table, is_new_table=False)
        is_wanted = any(route.index_written_at for route in routes)
        # A column that is added waits for the index, and all writers wait for the column.
        problems = [find_table_problems(connection, dialect, table, list_columns(route)) for route in routes]
        is_unready = any(problem.blocking or problem.addable for problem in problems)
        if not is_wanted or is_unready or not dialect.lacks_index(connection, table):
            return
    with autocommit(engine) as connection:
        dialect.build_index_online(connection, table)
