"""A single statement on the driver of PostgreSQL; SQLAlchemy takes 100 µs for each."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection

from app.database.diagnosis import is_stale_session
from app.database.engine import autocommit, close_connections


def execute_and_commit(engine: Engine, statement: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """Execute a single statement that commits by itself; return its rows.

    statement: in the driver's form. Raises DBAPIError with `connection_invalidated` if the connection was
    lost, and otherwise SQLAlchemy's or the driver's own errors.
    """
    from app.database.session_settings import is_pooled  # noqa: PLC0415  # loads psycopg; see open_engine

    pooled = engine.raw_connection()
    try:
        if not is_pooled(pooled):
            return _execute_on_driver(pooled.driver_connection, statement, parameters)
    except BaseException as error:
        is_lost = _is_lost(engine, pooled, error)
        # Its state is unknown, also if a timeout interrupted it.
        pooled.invalidate()
        if not is_lost:
            raise
        # As SQLAlchemy does: the other idle connections are as old.
        close_connections(engine)
        raise DBAPIError(None, None, error, hide_parameters=True, connection_invalidated=True) from error
    finally:
        pooled.close()
    # Behind a pooler, a transaction begins with its settings.
    with autocommit(engine) as connection:
        return connection.exec_driver_sql(statement, tuple(parameters)).all()


def _is_lost(engine: Engine, pooled: PoolProxiedConnection, error: BaseException) -> bool:
    connection: Any = pooled.driver_connection
    return isinstance(error, engine.dialect.loaded_dbapi.Error) and (
        is_stale_session(error) or engine.dialect.is_disconnect(error, connection, None)
    )


def _execute_on_driver(connection: Any, statement: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
    """connection: psycopg's."""
    connection.autocommit = True
    rows: Sequence[Sequence[Any]] = connection.execute(statement, parameters).fetchall()
    connection.autocommit = False
    return rows
