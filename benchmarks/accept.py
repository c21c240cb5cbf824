"""Deliveries accepted a second, and how soon: `python -m benchmarks.accept [--seconds S] …`.

Compares within one run on one machine, in turns, medians of several rounds: the receiver on PostgreSQL, also
with encrypted bodies, and on SQLite, committing durably; a Flask application on the same gunicorn that only
reads and answers; the handler that people write by hand; and Debian's `webhook`, a server in Go that checks
the signature and runs a program (`apt-get install webhook`; skipped if it is not installed). Each has two
server processes. Sender, servers and databases share the cores: the ratios hold elsewhere, the absolute
numbers do not.

From two connections, the floor is printed too: the rate that no receiver in this stack can exceed, and the
share of it that the receiver reaches. See `benchmarks.floor`.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from redis import Redis

from app.cli.local.ports import find_free_port
from app.database.engine import open_engine
from app.encryption import KEY_BYTES
from app.truto.target_url import WEBHOOK_PATH
from benchmarks.environment import migrate_database
from benchmarks.floor import Floor, GroupSizeMeter, build_floor, measure_parts_us
from benchmarks.load import LoadResult, send_for
from benchmarks.payloads import RequestStream
from benchmarks.results import save_results
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, WebProcess

# The better of the two is the limit of the stack.
_LIMITS = ("bare, gevent", "bare, gthread")
_COLUMNS = ("answers/s", "spread", "of bare", "p50 ms", "p99 ms", "p99.9 ms")
# gunicorn's own worker classes: the receiver's limits the requests of unsigned clients.
# They take the whole graceful timeout to stop.
_STOCK = ("--bind", "127.0.0.1:{port}", "--graceful-timeout", "1")
_GEVENT = ("--worker-class", "gevent", *_STOCK)
_GTHREAD = ("--worker-class", "gthread", "--threads", "16", *_STOCK)
_GO_WEBHOOK_RULE = {
    "id": "truto",
    "execute-command": "/bin/true",
    # Otherwise it answers first and starts its programs during the next server's round.
    "include-command-output-in-response": True,
    "trigger-rule": {
        "match": {
            "type": "payload-hmac-sha256",
            "secret": SECRET,
            "parameter": {"source": "header", "name": "X-Hub-Signature-256"},
        }
    },
}


@dataclass(frozen=True, slots=True)
class ComparedServers:
    """The running servers. addresses: port and path by name. database_urls: the receiver's, by kind."""

    addresses: Mapping[str, tuple[int, str]]
    database_urls: Mapping[str, str]
    postgres_pid: int
    redis: Redis


@contextmanager
def _running_servers() -> Iterator[ComparedServers]:
    """Start every server; all of them end with the block."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(3)]
        valkey, postgres = ValkeyServer(folders[0]), PostgresServer(folders[1], is_durable=True)
        stack.callback(valkey.stop)
        stack.callback(postgres.stop)
        urls = {
            "PostgreSQL": stack.enter_context(postgres.database()),
            "SQLite": f"sqlite:///{folders[2]}/inbox.db",
        }
        for url in urls.values():
            migrate_database(url)

        def serve(application: str, database_url: str, *options: str, **settings: str) -> tuple[int, str]:
            process = WebProcess(
                folders[2],
                database_url=database_url,
                redis_url=valkey.url,
                application=application,
                options=options,
                WEB_CONCURRENCY="2",
                **settings,
            )
            return stack.enter_context(process).port, WEBHOOK_PATH

        addresses = {name: serve("app.web.wsgi:app", url) for name, url in urls.items()}
        encrypted_url = stack.enter_context(postgres.database())
        migrate_database(encrypted_url)
        addresses["PostgreSQL, encrypted"] = serve(
            "app.web.wsgi:app", encrypted_url, ENCRYPTION_KEYS=b64encode(bytes(KEY_BYTES)).decode()
        )
        addresses["bare, gevent"] = serve("benchmarks.minimal_app:app", urls["SQLite"], *_GEVENT)
        addresses["bare, gthread"] = serve("benchmarks.minimal_app:app", urls["SQLite"], *_GTHREAD)
        addresses["by hand"] = serve("benchmarks.naive_handler:app", urls["SQLite"], *_GEVENT)
        if shutil.which("webhook"):
            addresses["webhook (Go)"] = stack.enter_context(_running_go_webhook(folders[2]))
        redis = stack.enter_context(Redis.from_url(valkey.url))
        yield ComparedServers(addresses, urls, postgres.pid, redis)


@contextmanager
def _running_go_webhook(folder: Path) -> Iterator[tuple[int, str]]:
    (folder / "hooks.json").write_text(json.dumps([_GO_WEBHOOK_RULE]))
    port = find_free_port()
    command = ["webhook", "-hooks", str(folder / "hooks.json"), "-ip", "127.0.0.1", "-port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _is_up(port), what="webhook to answer")
        yield port, "/hooks/truto"
    finally:
        process.terminate()
        process.wait()


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code > 0
    except httpx.TransportError:
        return False


def _measure_commits(database_url: str, bodies: Iterable[bytes], *, seconds: float) -> LoadResult:
    """Insert the bodies into a table of their own, one transaction each, over one connection."""
    engine = open_engine(database_url)
    is_postgresql = engine.dialect.name == "postgresql"
    placeholder, column_type = ("%s", "bytea") if is_postgresql else ("?", "blob")
    times_s: list[float] = []
    # The driver's own connection: SQLAlchemy would begin one transaction around all of them.
    with closing(engine.raw_connection()) as connection:
        if is_postgresql:
            connection.driver_connection.autocommit = True  # type: ignore[union-attr]  # it is psycopg's
        cursor = connection.cursor()
        cursor.execute(f"CREATE TABLE IF NOT EXISTS bare_commits (body {column_type})")
        deadline = time.perf_counter() + seconds
        for body in bodies:
            started = time.perf_counter()
            if started > deadline:
                break
            cursor.execute(f"INSERT INTO bare_commits VALUES ({placeholder})", (body,))
            times_s.append(time.perf_counter() - started)
    engine.dispose()
    return LoadResult(len(times_s) / seconds, sorted(times_s))


def _measure(
    servers: ComparedServers, options: argparse.Namespace, records: int, connections: int
) -> tuple[Mapping[str, list[LoadResult]], Floor | None]:
    """Return the loads by name, and the floor; None for a single connection, which leaves cores idle."""
    measurements: dict[str, Callable[[], LoadResult]] = {
        name: partial(
            send_for, port, RequestStream(path, records), connections=connections, seconds=options.seconds
        )
        for name, (port, path) in servers.addresses.items()
    }
    if connections == 1:
        # A single delivery takes one commit and the work around it.
        for name, url in servers.database_urls.items():
            bodies = RequestStream("/", records).bodies()
            measurements[f"commit alone, {name}"] = partial(
                _measure_commits, url, bodies, seconds=options.seconds
            )
    loads: dict[str, list[LoadResult]] = {name: [] for name in measurements}
    group_sizes = GroupSizeMeter(servers.addresses["PostgreSQL"][0])
    rounds_us = []
    for _ in range(options.rounds):
        # In turns, so that other load on the machine affects all of them.
        for name, measure in measurements.items():
            servers.redis.flushall()
            loads[name].append(measure())
        if connections > 1:
            parts_us = measure_parts_us(
                servers.database_urls["PostgreSQL"],
                servers.postgres_pid,
                RequestStream("/", records).bodies(),
                group_size=group_sizes.read(),
                seconds=options.seconds,
            )
            rounds_us.append(parts_us)
    if connections == 1:
        return loads, None
    bare_per_s = median(load.per_s for load in loads[_LIMITS[0]])
    parts_us = {name: median(round_us[name] for round_us in rounds_us) for name in rounds_us[0]}
    return loads, build_floor(bare_per_s, parts_us, group_sizes.read())


def _row(name: str, loads: list[LoadResult], limit_per_s: float) -> dict[str, Any]:
    rates = [load.per_s for load in loads]
    rate = median(rates)
    times = {
        f"p{percent:g}_ms": median(load.percentile_s(percent) for load in loads) * 1000
        for percent in (50, 99, 99.9)
    }
    spread = (max(rates) - min(rates)) / 2 / rate
    return {"contender": name, "per_s": rate, "spread": spread, "of_bare": rate / limit_per_s, **times}


def _line(row: Mapping[str, Any]) -> str:
    times = " | ".join(f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms", "p99.9_ms"))
    ratios = f"±{row['spread']:.0%} | {row['of_bare']:.0%}"
    return f"| {row['contender']} | {row['per_s']:,.0f} | {ratios} | {times} |"


def main() -> None:
    """Print a table for each body size and number of connections."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accept", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each server (default: %(default)s)")
    parser.add_argument("--records", type=int, nargs="+", default=[1, 50, 500], help="records in a body")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="parallel senders")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file to save the measurements to")
    options = parser.parse_args()
    rows = []
    with _running_servers() as servers:
        for records in options.records:
            for connections in options.connections:
                loads, floor = _measure(servers, options, records, connections)
                limit_per_s = max(median(load.per_s for load in loads[name]) for name in _LIMITS)
                print(f"\n{records} records, {connections} connections\n")
                print(f"| | {' | '.join(_COLUMNS)} |")
                print("|---|" + "--:|" * len(_COLUMNS))
                for name in loads:
                    row = _row(name, loads[name], limit_per_s)
                    print(_line(row), flush=True)
                    rows.append({"records": records, "connections": connections, **row})
                if floor:
                    print(floor.describe_share(median(load.per_s for load in loads["PostgreSQL"])))
                    row = {"contender": "floor", "of_bare": floor.per_s / limit_per_s, **floor.as_row()}
                    rows.append({"records": records, "connections": connections, **row})
    save_results(options.json, rows)


if __name__ == "__main__":
    main()
