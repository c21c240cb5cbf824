"""Probe of a database: rights to create tables, and the set-up of its tables."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from app.config.routes import Route, has_wildcard
from app.database.engine import diagnose_for, open_engine
from app.database.inspection import database_file, missing_file
from app.database.provision import CREATE_UTF8_DATABASE
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.sql.delete_tracking import list_columns
from app.sinks.sql.dialect import Dialect
from app.sinks.sql.live_views import find_view_state, live_view_name
from app.sinks.sql.merge import quote
from app.sinks.sql.set_up import find_table_problems
from app.sinks.sql.sink import choose_dialect
from app.sinks.sql.tables import SinkTables, table_name

_LOCK_TIMEOUT_S = 3.0
_RIGHTS = text(
    """
    SELECT current_schema() AS schema, quote_ident(current_user) AS role,
      quote_ident(coalesce(current_schema(), 'public')) AS place,
      current_setting('server_encoding') AS encoding,
      current_setting('transaction_read_only') = 'on' AS is_read_only,
      coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
      has_database_privilege(current_database(), 'CREATE') AS may_create_schema
    """
)
# Tables of the sink on which its role lacks a right.
_UNWRITABLE_TABLES = text(
    """
    SELECT count(*) FROM pg_tables, format('%I.%I', schemaname, tablename) AS name
    WHERE schemaname = current_schema()
      AND tablename IN (SELECT table_name FROM rapidbridge_sink_tables)
      AND NOT (has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT')
        AND has_table_privilege(name, 'UPDATE'))
    """
)
_IS_READ_ONLY = text("SELECT @@global.read_only")
_HAS_TABLES = text("SELECT to_regclass('rapidbridge_sink_tables') IS NOT NULL")


def probe_database(url: str, *, schema: str = "") -> Path | None:
    """Return the folder of a SQLite file, None for other databases.

    A missing SQLite file is not created. Raises SinkUnavailable if tables cannot be created or written.
    """
    path = database_file(url)
    if missing_file(url):
        return path.parent if path else None
    engine = open_engine(url, schema=schema, lock_timeout_s=_LOCK_TIMEOUT_S)
    try:
        # On SQLite, BEGIN IMMEDIATE takes the write lock: that proves the file is writable.
        with engine.connect() as connection, connection.begin() as transaction:
            if engine.dialect.name == "postgresql":
                _check_rights(connection, schema)
            if engine.dialect.name == "mysql":
                _check_mysql(connection)
            transaction.rollback()
    except (SQLAlchemyError, UnicodeError) as error:
        raise SinkUnavailable(str(diagnose_for(error, engine, schema=schema))) from error
    finally:
        engine.dispose()
    return path.parent if path else None


def _check_rights(connection: Connection, schema: str) -> None:
    rights = connection.execute(_RIGHTS).one()
    if rights.encoding != "UTF8":
        raise SinkUnavailable(
            f"the sink's database has the encoding {rights.encoding}, which cannot represent every record: "
            f"create another one with: {CREATE_UTF8_DATABASE}"
        )
    if rights.is_read_only:
        raise SinkUnavailable("the sink's database is read-only, or a standby: name the primary in its `url`")
    if schema and rights.schema is None:
        if not rights.may_create_schema:
            raise SinkUnavailable(
                f"there is no schema {schema}, and the sink's role may not create it: "
                f'run as a superuser: CREATE SCHEMA "{schema}" AUTHORIZATION {rights.role};'
            )
        return
    if not rights.may_create:
        place = rights.schema or "any schema of its search_path"
        raise SinkUnavailable(
            f"the sink's role may not create tables in {place}: run as the owner: GRANT USAGE, CREATE ON "
            f"SCHEMA {rights.place} TO {rights.role}; or set `schema` in the sink, to a schema of this role"
        )
    if connection.execute(_HAS_TABLES).scalar_one() and connection.execute(_UNWRITABLE_TABLES).scalar_one():
        raise SinkUnavailable(
            "the sink's role may not write to tables of this sink: run as their owner: GRANT SELECT, INSERT, "
            f"UPDATE, DELETE ON ALL TABLES IN SCHEMA {rights.place} TO {rights.role};"
        )


def _check_mysql(connection: Connection) -> None:
    version = connection.dialect.server_version_info or ()
    is_mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    product, minimum = ("MariaDB", (10, 6)) if is_mariadb else ("MySQL", (8, 0, 17))
    if version < minimum:
        # Older servers do not have the collation of the keys.
        raise SinkUnavailable(
            f"the sink's database is {product} {'.'.join(map(str, version))}; "
            f"upgrade it to {product} {'.'.join(map(str, minimum))} or later"
        )
    if connection.execute(_IS_READ_ONLY).scalar_one():
        raise SinkUnavailable("the sink's database is read-only, or a replica: name the primary in its `url`")


class SetUpProblem(NamedTuple):
    """A table that does not fit its route. is_blocking: no record can be written to it.

    consequence: of a problem that is not blocking.
    """

    table: str
    problem: str
    correction: str
    is_blocking: bool
    consequence: str = "values may be rejected or rounded"


def find_set_up_problems(url: str, routes: Sequence[Route], *, schema: str = "") -> list[SetUpProblem]:
    """Compare the tables of a database with the routes that write to it.

    A missing SQLite file is not created. Raises SinkUnavailable if the database cannot be read.
    """
    if missing_file(url):
        return []
    engine = open_engine(url, schema=schema, lock_timeout_s=_LOCK_TIMEOUT_S)
    dialect = choose_dialect(engine)
    tables = SinkTables(engine, dialect, schema)
    problems: list[SetUpProblem] = []
    try:
        resources = tables.list_tables()
        # A route without a wildcard names its resource; the others write to tables that exist.
        exact = {route.resource for route in routes if not has_wildcard(route.resource)}
        with engine.connect() as connection:
            for resource in sorted(exact | set(resources.values())):
                for route in routes:
                    if fnmatchcase(resource, route.resource):
                        problems += _inspect_table(connection, tables, dialect, resource, route)
    except (SQLAlchemyError, UnicodeError) as error:
        raise SinkUnavailable(str(diagnose_for(error, engine, schema=schema))) from error
    finally:
        engine.dispose()
    return list(dict.fromkeys(problems))


def _inspect_table(
    connection: Connection, tables: SinkTables, dialect: Dialect, resource: str, route: Route
) -> Iterator[SetUpProblem]:
    table = table_name(resource, route)
    try:
        tables.check_name(connection, table, resource)
    except SinkRefused as refusal:
        problem, _, correction = str(refusal).partition("; ")
        yield SetUpProblem(table, problem, correction, is_blocking=True)
        return
    inspected = find_table_problems(connection, dialect, table, list_columns(route))
    for problem, correction in inspected.blocking:
        yield SetUpProblem(table, f"table {table}: {problem}", correction, is_blocking=True)
    for problem, correction in (*inspected.types, *inspected.unfilled.values()):
        yield SetUpProblem(table, f"table {table}: {problem}", correction, is_blocking=False)
    if not inspected.blocking and dialect.find_relation_kind(connection, table) == "table":
        yield from _inspect_extras(connection, dialect, table, route)


def _inspect_extras(
    connection: Connection, dialect: Dialect, table: str, route: Route
) -> Iterator[SetUpProblem]:
    if route.index_written_at and dialect.lacks_index(connection, table):
        yield SetUpProblem(
            table,
            f"table {table} has no index on _written_at",
            "wait until a worker has built it, set index_written_at = false in its route, or run: "
            f"{dialect.build_index_advice(table)}",
            is_blocking=False,
            consequence="incremental reads are slow",
        )
    view = live_view_name(table)
    statement = f"{dialect.build_live_view(view, table)};"
    state = find_view_state(connection, dialect, table)
    if state == "taken":
        yield SetUpProblem(
            table,
            f"table {table} has no view {view}, because something else has the name",
            "set another `table` in its route, or rename the other",
            is_blocking=False,
            consequence="deleted rows must be filtered by _deleted_at",
        )
    elif state == "outdated":
        yield SetUpProblem(
            table,
            f"view {view} lacks columns of table {table}",
            f"run: DROP VIEW {quote(view)}; {statement}",
            is_blocking=False,
            consequence="readers of the view miss columns",
        )
