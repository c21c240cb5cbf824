"""What a store's commit alone takes: the same bytes, inserted over one connection, nothing around it."""

import time
from collections.abc import Iterator
from itertools import islice

from app.store.engine import open_store
from benchmarks.load import Load


def commit(database_url: str, requests: Iterator[bytes], *, seconds: float) -> Load:
    """Insert one request after the other into a table of its own, each in a transaction, for so long."""
    engine = open_store(database_url)
    mark = "%s" if engine.dialect.name == "postgresql" else "?"
    kind = "bytea" if engine.dialect.name == "postgresql" else "blob"
    times: list[float] = []
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS bare_commits (body {kind})")
        cursor = connection.connection.cursor()
        started = time.perf_counter()
        for request in islice(requests, 1_000_000):
            began = time.perf_counter()
            if began - started > seconds:
                break
            cursor.execute(f"INSERT INTO bare_commits VALUES ({mark})", (request,))
            times.append(time.perf_counter() - began)
    engine.dispose()
    return Load(len(times) / seconds, sorted(times))
