"""What a store's commit alone takes: the same bytes, inserted over one connection, nothing around it."""

import time
from collections.abc import Iterator
from contextlib import closing

from app.database.engine import open_engine
from benchmarks.load import LoadResult


def measure_commits(database_url: str, requests: Iterator[bytes], *, seconds: float) -> LoadResult:
    """Insert one request after the other into a table of its own, each in a transaction, for so long."""
    engine = open_engine(database_url)
    is_postgresql = engine.dialect.name == "postgresql"
    mark, kind = ("%s", "bytea") if is_postgresql else ("?", "blob")
    times: list[float] = []
    # The driver's own connection: SQLAlchemy would begin a transaction around them all.
    with closing(engine.raw_connection()) as connection:
        if is_postgresql:
            connection.driver_connection.autocommit = True  # type: ignore[union-attr]  # it is psycopg's
        cursor = connection.cursor()
        cursor.execute(f"CREATE TABLE IF NOT EXISTS bare_commits (body {kind})")
        started = time.perf_counter()
        for request in requests:
            began = time.perf_counter()
            if began - started > seconds:
                break
            cursor.execute(f"INSERT INTO bare_commits VALUES ({mark})", (request,))
            times.append(time.perf_counter() - began)
    engine.dispose()
    return LoadResult(len(times) / seconds, sorted(times))
