"""Probe of a database: rights to create and write tables."""

from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from app.database.diagnostics import connection_error_reason, database_file, missing_file
from app.database.engine import open_engine
from app.errors import SinkUnavailable

_LOCK_TIMEOUT_S = 3.0
_RIGHTS = text(
    """
    SELECT current_schema() AS schema,
      current_setting('transaction_read_only') = 'on' AS is_read_only,
      coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create
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
_HAS_TABLES = text("SELECT to_regclass('rapidbridge_sink_tables') IS NOT NULL")


def probe_database(url: str) -> Path | None:
    """Return the folder of a SQLite file, None for other databases.

    A missing SQLite file is not created. Raises SinkUnavailable if tables cannot be created or written.
    """
    path = database_file(url)
    if missing_file(url):
        return path.parent if path else None
    engine = open_engine(url, lock_timeout_s=_LOCK_TIMEOUT_S)
    try:
        # On SQLite, BEGIN IMMEDIATE takes the write lock: that proves the file is writable.
        with engine.connect() as connection, connection.begin() as transaction:
            if engine.dialect.name == "postgresql":
                _check_rights(connection)
            transaction.rollback()
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
        failure = f"{type(error.orig).__name__}{f', {state}' if state else ''}"
        raise SinkUnavailable(
            connection_error_reason(error) or f"the sink's database failed ({failure})"
        ) from error
    except SQLAlchemyError as error:
        raise SinkUnavailable(f"the sink's database failed ({type(error).__name__})") from error
    finally:
        engine.dispose()
    return path.parent if path else None


def _check_rights(connection: Connection) -> None:
    rights = connection.execute(_RIGHTS).one()
    if rights.is_read_only:
        raise SinkUnavailable("the sink's database is read-only, or a standby: name the primary in its `url`")
    if not rights.may_create:
        schema = rights.schema or "any schema of its search_path"
        raise SinkUnavailable(f"the sink's role may not create tables in {schema}: grant it CREATE")
    if connection.execute(_HAS_TABLES).scalar_one() and connection.execute(_UNWRITABLE_TABLES).scalar_one():
        raise SinkUnavailable(
            "the sink's role may not write to tables of this sink: grant it SELECT, INSERT and UPDATE"
        )
