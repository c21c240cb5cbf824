"""How many deliveries a second are accepted, and how soon: `python -m benchmarks.accept [--seconds S] …`.

Compares within one run on one machine, in turns, medians of several: the receiver on PostgreSQL and on
SQLite, both committing durably; a Flask application on the same gunicorn that only reads and answers; the
handler that people write by hand; and Debian's `webhook`, a server in Go that checks the signature and starts
a program (`apt-get install webhook`; left out where it is missing). Two server processes; sender, servers and
databases share the cores. The ratios hold elsewhere, the absolutes do not.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import httpx
from redis import Redis

from app.cli.ports import free_port
from app.store.engine import open_store
from app.store.migrate import migrate
from app.web.endpoint import WEBHOOK_PATH
from benchmarks.load import Load, Requests, send
from tests.servers.postgres import PostgresServer
from tests.servers.receiver import SECRET, WebProcess
from tests.servers.valkey import ValkeyServer
from tests.waiting import wait_until

_WEBHOOK_RULE = {
    "type": "payload-hmac-sha256",
    "secret": SECRET,
    "parameter": {"source": "header", "name": "X-Hub-Signature-256"},
}
_GTHREAD = ("--worker-class", "gthread", "--threads", "16")


@contextmanager
def _contenders() -> Iterator[tuple[Mapping[str, tuple[int, str]], Redis]]:
    """Start all of them; yield the port and path of each by name, and the Redis that some use."""
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
            store = open_store(url)
            migrate(store)
            store.dispose()

        def serve(application: str, database_url: str, *options: str) -> tuple[int, str]:
            process = WebProcess(
                folders[2],
                database_url=database_url,
                redis_url=valkey.url,
                application=application,
                options=options,
                WEB_CONCURRENCY="2",
            )
            return stack.enter_context(process).port, WEBHOOK_PATH

        places = {name: serve("app.web.wsgi:app", url) for name, url in urls.items()}
        places["bare, gevent"] = serve("benchmarks.bare:app", urls["SQLite"])
        places["bare, gthread"] = serve("benchmarks.bare:app", urls["SQLite"], *_GTHREAD)
        places["by hand"] = serve("benchmarks.by_hand:app", urls["SQLite"])
        if shutil.which("webhook"):
            places["webhook (Go)"] = stack.enter_context(_webhook(folders[2]))
        yield places, stack.enter_context(Redis.from_url(valkey.url))


@contextmanager
def _webhook(folder: Path) -> Iterator[tuple[int, str]]:
    rules = [{"id": "truto", "execute-command": "/bin/true", "trigger-rule": {"match": _WEBHOOK_RULE}}]
    (folder / "hooks.json").write_text(json.dumps(rules))
    port = free_port()
    command = ["webhook", "-hooks", str(folder / "hooks.json"), "-ip", "127.0.0.1", "-port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: _is_up(port), what="webhook")
        yield port, "/hooks/truto"
    finally:
        process.terminate()
        process.wait()


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code > 0
    except httpx.TransportError:
        return False


def _measure(
    places: Mapping[str, tuple[int, str]],
    redis: Redis,
    options: argparse.Namespace,
    records: int,
    at_once: int,
) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {name: [] for name in places}
    for _ in range(options.rounds):
        # In turns, so that whatever else the machine does hits all of them.
        for name, (port, path) in places.items():
            redis.flushall()
            loads[name].append(
                send(port, Requests(path, records), connections=at_once, seconds=options.seconds)
            )
    return loads


def _row(name: str, loads: list[Load], limit: float) -> str:
    rates = [load.per_s for load in loads]
    rate, spread = median(rates), (max(rates) - min(rates)) / median(rates)
    times = [median(load.percentile(percent) * 1000 for load in loads) for percent in (50, 99, 99.9)]
    shown = " | ".join(f"{time:.1f}" for time in times)
    return f"| {name} | {rate:,.0f} | ±{spread / 2:.0%} | {rate / limit:.0%} | {shown} |"


def main() -> None:
    """Print a table for each size of body and number of connections."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accept", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: %(default)s)")
    parser.add_argument("--records", type=int, nargs="+", default=[1, 50, 500], help="in a body")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64], help="that send at once")
    options = parser.parse_args()
    with _contenders() as (places, redis):
        for records in options.records:
            for at_once in options.connections:
                loads = _measure(places, redis, options, records, at_once)
                rates = {name: median(load.per_s for load in loads[name]) for name in loads}
                limit = max(rates["bare, gevent"], rates["bare, gthread"])
                print(f"\n{records} records, {at_once} connections\n")
                print("| | answers/s | spread | of bare | p50 ms | p99 ms | p99.9 ms |")
                print("|---|--:|--:|--:|--:|--:|--:|")
                for name in places:
                    print(_row(name, loads[name], limit), flush=True)


if __name__ == "__main__":
    main()
