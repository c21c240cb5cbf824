"""Disk space of a delivery: `python -m benchmarks.storage [--pages N] [--json FILE]`.

Posts pages of 50 records of about 1 KB to a web process, and lets a worker write them to the SQL sink in the
same PostgreSQL. Then prints bytes of disk for each page: in the inbox, after its body is pruned and the space
is returned, and in the sink's table. Also the memory of Redis for each page in the spool.
"""

import argparse
from datetime import timedelta
from pathlib import Path

from psycopg.sql import SQL, Identifier
from sqlalchemy import text

from app.clock import utc_now
from app.store.inbox import Inbox
from app.store.retention import prune
from app.store.schema import deliveries, sink_outcomes
from benchmarks.environment import BenchmarkEnvironment, running_environment
from benchmarks.load import send_all
from benchmarks.payloads import TABLE, make_delivery, make_requests
from benchmarks.results import save_results
from benchmarks.seeded_inbox import connect_without_limits
from tests.support.redis_keys import open_spool
from tests.support.waiting import wait_until

_RECORDS, _CONNECTIONS = 50, 8
_INBOX = (deliveries.name, sink_outcomes.name)
_SIZE = text("SELECT pg_table_size(CAST(:name AS regclass)) AS rows, pg_indexes_size(:name) AS indexes")


def _measure(pages: int) -> list[dict[str, str | int]]:
    requests = make_requests(pages * _RECORDS, _RECORDS)
    with running_environment() as environment:
        spooled = _measure_spool(environment, pages)
        with environment.web(1) as web, environment.running_workers(1):
            send_all(web.port, requests, connections=_CONNECTIONS)
            inbox = Inbox(environment.database)
            wait_until(
                lambda: inbox.count_by_state().get("settled") == pages, timeout_s=120, what="settled pages"
            )
        sent = sum(len(request.partition(b"\r\n\r\n")[2]) for request in requests)
        rows: list[dict[str, str | int]] = [
            {"part": "body, as sent", "bytes": round(sent / pages)},
            {"part": "spool, in Redis", "bytes": round(spooled / pages)},
        ]
        rows += _read_sizes(environment, pages, "", (*_INBOX, TABLE))
        for _ in prune(environment.database, before=utc_now() + timedelta(days=1), clock=utc_now):
            pass
        return rows + _read_sizes(environment, pages, ", pruned", _INBOX)


def _measure_spool(environment: BenchmarkEnvironment, pages: int) -> int:
    """Return the bytes of memory that Redis takes for a number of spooled pages; empty it afterwards."""
    spool = open_spool(environment.redis, environment.database)
    before = environment.redis.info("memory")["used_memory"]
    for number in range(pages):
        spool.put(make_delivery(number, _RECORDS))
    used = environment.redis.info("memory")["used_memory"] - before
    environment.redis.flushall()
    return int(used)


def _read_sizes(
    environment: BenchmarkEnvironment, pages: int, suffix: str, tables: tuple[str, ...]
) -> list[dict[str, str | int]]:
    """Return the bytes of a page in each table, without unused space."""
    rows: list[dict[str, str | int]] = []
    with connect_without_limits(environment.database_url) as connection:
        for table in tables:
            connection.execute(SQL("VACUUM FULL {}").format(Identifier(table)))
    for table in tables:
        [(row_bytes, index_bytes)] = environment.database.read(_SIZE, {"name": table})
        rows.append({"part": f"{table}{suffix}: rows", "bytes": round(row_bytes / pages)})
        rows.append({"part": f"{table}{suffix}: indexes", "bytes": round(index_bytes / pages)})
    return rows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storage", description=__doc__)
    parser.add_argument("--pages", type=int, default=2_000, help="pages to post (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    rows = _measure(options.pages)
    print(f"\nBytes of a page of {_RECORDS} records\n\n| part | bytes |\n|---|--:|")
    for row in rows:
        print(f"| {row['part']} | {row['bytes']:,} |")
    save_results(options.json, rows)


if __name__ == "__main__":
    main()
