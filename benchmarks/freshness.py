"""The time from a POST to its visible rows: `python -m benchmarks.freshness [--seconds N] …`.

Pages of 50 records are sent at fixed rates over real HTTP to one web process with two workers. The PostgreSQL
commits durably and notes the time of each commit. A row holds the time at which its page was sent, so no
polling disturbs the measurement. Rates: 1, 10 and 100 pages a second, and 80 % of the most that are received
and written at the same time.

Then one account has a backlog of 100,000 pages, and another one sends 1, 10 and 100 pages a second. With one
page a second, the throughput of the first is measured in turns with and without the second. The same beside a
replay of 20,000 pages that were written before.

Sender, receiver and databases share the cores.
"""

import argparse
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from redis import Redis

from app.database.engine import open_database
from app.simulator.sample_records import make_record
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery
from app.store.requeue import mark_pending
from app.store.schema import deliveries
from app.truto.events import read_envelope
from app.truto.signature import sign
from app.truto.target_url import WEBHOOK_PATH
from benchmarks.environment import migrate_database
from benchmarks.payloads import RESOURCE, TABLE
from benchmarks.results import save_results
from tests.chaos.site import Program
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT
from tests.support.replays import begin_replay
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, WebProcess, read_procfile_command

_RECORDS = 50
_RATES = (1.0, 10.0, 100.0)
_BUSY_SHARE = 0.8
_BACKLOG = 100_000
# Pages of the backlog with rows of their own; the others are never reached.
_BACKLOG_ROWS = 20_000
_SENDERS = 8
_PUT_AT_ONCE = 64
# Of a sender, for its answer.
_TIMEOUT_S = 60.0
# Pages of the backlog were received an hour ago. Until all are stored, they are due in half an hour: the
# receiver takes deliveries that are due after more than an hour for held ones, and keeps holding them.
_AGE, _DELAY = timedelta(hours=1), timedelta(minutes=90)
_LATENCY = (
    "SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin)) - (data ->> 'sent_at')::float "
    f"FROM {TABLE} WHERE _account = %s AND data ? 'sent_at'"
)
_OF_ACCOUNT = "integrated_account_id = %s"


class Pages:
    """Endless pages of an account, each with new records. The first record has the time of `make`."""

    _numbers = count(time.time_ns())

    def __init__(self, account: str) -> None:
        records: list[dict[str, Any]] = [
            {**make_record(RESOURCE, account, index, "1"), "id": f"@ {index}"} for index in range(_RECORDS)
        ]
        records[0]["sent_at"] = "@time"
        payload: dict[str, Any] = {
            "integrated_account_id": account,
            "sync_job_run_id": account,
            "resource": RESOURCE,
        }
        payload |= {"method": "list", "records": records}
        event = {"id": "@", "event": "sync_job_run:record", "payload": payload}
        self._text = json.dumps(event, separators=(",", ":")).encode()

    def make(self) -> bytes:
        """Return the body of the next page."""
        body = self._text.replace(b'"@time"', b"%.6f" % time.time())
        return body.replace(b"@", b"%d" % next(self._numbers))


@dataclass(frozen=True, slots=True)
class Latency:
    """Times from POST to visible row, in seconds. pages_per_s: that were sent."""

    name: str
    pages_per_s: float
    times_s: Sequence[float]

    def percentile_ms(self, percent: float) -> float:
        """Return the time within which this percentage was visible."""
        return 1000 * self.times_s[min(len(self.times_s) - 1, int(len(self.times_s) * percent / 100))]


@dataclass(frozen=True, slots=True)
class Site:
    """A running receiver. url: of its database."""

    url: str
    port: int

    def send(self, account: str, pages_per_s: float, seconds: float) -> None:
        """Send pages of an account at this rate, at most as many at once as there are senders."""
        pages = Pages(account)
        started_s = time.monotonic()
        numbers = count()
        lock = threading.Lock()

        def run() -> None:
            with socket.create_connection(("127.0.0.1", self.port), timeout=_TIMEOUT_S) as connection:
                while True:
                    with lock:
                        due_s = started_s + next(numbers) / pages_per_s
                    if max(due_s, time.monotonic()) > started_s + seconds:
                        return
                    time.sleep(max(0.0, due_s - time.monotonic()))
                    _post(connection, pages.make())

        with ThreadPoolExecutor(_SENDERS) as pool:
            for sending in [pool.submit(run) for _ in range(_SENDERS)]:
                sending.result()

    def measure(self, name: str, pages_per_s: float, seconds: float) -> Latency:
        """Send pages of a new account, and return the times to their rows."""
        account = f"{name} {time.time_ns()}"
        self.send(account, pages_per_s, seconds)
        expected = self.count(_OF_ACCOUNT, account)
        wait_until(lambda: self.count_settled(account) == expected, timeout_s=120, what="the last rows")
        with psycopg.connect(self.url) as connection:
            times = sorted(float(row[0]) for row in connection.execute(_LATENCY.encode(), [account]))
        assert len(times) == expected
        return Latency(name, expected / seconds, times)

    def count_settled(self, account: str) -> int:
        """Return the number of an account's settled deliveries."""
        return self.count(f"{_OF_ACCOUNT} AND state = 'settled'", account)

    def count(self, condition: str, *parameters: str) -> int:
        """Return the number of deliveries that meet a condition."""
        statement = f"SELECT count(*) FROM {deliveries.name} WHERE {condition}"
        with psycopg.connect(self.url) as connection:
            row = connection.execute(statement.encode(), parameters).fetchone()
        assert row
        return int(row[0])


def _post(connection: socket.socket, body: bytes) -> None:
    head = (
        f"POST {WEBHOOK_PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Truto-Signature: {sign(body, SECRET)}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body)
    answer = b""
    # The body ends with a line of its own.
    while not answer.endswith(b"}\n"):
        part = connection.recv(65536)
        assert part, f"the answer ended early: {answer!r}"
        answer += part
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]


@contextmanager
def running_site(workers: int) -> Iterator[Site]:
    """Start the servers and the receiver."""
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(3)]
        postgres = PostgresServer(folders[0], is_durable=True)
        stack.callback(postgres.stop)
        with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET track_commit_timestamp = on")
        postgres.stop()
        postgres.start()
        valkey = ValkeyServer(folders[1], "--appendonly", "yes")
        stack.callback(valkey.stop)
        url = stack.enter_context(postgres.database())
        migrate_database(url)
        web = stack.enter_context(
            WebProcess(folders[2], database_url=url, redis_url=valkey.url, WEB_CONCURRENCY="1")
        )
        settings = {"DATABASE_URL": url, "REDIS_URL": valkey.url, "WORKER_CONCURRENCY": str(workers)}
        program = Program(read_procfile_command("worker"), ROOT, settings, folders[2] / "workers.log")
        program.start()
        stack.callback(program.terminate)
        with Redis.from_url(valkey.url) as redis:
            wait_until(lambda: redis.scard("rq:workers") == workers, timeout_s=60, what="the workers")
        yield Site(url, web.port)


def _measure_most(site: Site, seconds: float) -> float:
    """Return the most pages a second that are received and written at the same time."""
    started_s = time.monotonic()
    site.send("most", 1e6, seconds)
    settled = site.count_settled("most")
    rate = settled / (time.monotonic() - started_s)
    wait_until(lambda: not site.count("state = 'pending'"), timeout_s=300, what="the rest")
    return rate


def _put_backlog(site: Site, account: str, number: int, *, is_replay: bool) -> None:
    """Store pages of an account that are due, or were written and are now replayed."""
    pages, then = Pages(account), datetime.now(UTC) - _AGE
    database = open_database(site.url)
    inbox = Inbox(database)
    ids = []
    for start in range(0, min(number, _BACKLOG_ROWS), _PUT_AT_ONCE):
        incoming = []
        for place in range(_PUT_AT_ONCE):
            body = pages.make().replace(b'"sent_at"', b'"old"')
            at = then + _DELAY + timedelta(milliseconds=start + place)
            incoming.append(IncomingDelivery(body, b"%32d" % place, at, read_envelope(body)))
        ids += [receipt.delivery_id for receipt in inbox.put(incoming)]
    with psycopg.connect(site.url) as connection:
        if not is_replay:
            names = [column.name for column in deliveries.columns]
            expressions = {
                "id": "gen_random_uuid()",
                "event_id": "'more ' || n",
                "due_at": "due_at + interval '20 min'",
            }
            values = ", ".join(expressions.get(name, name) for name in names)
            connection.execute(
                f"INSERT INTO {deliveries.name} ({', '.join(names)}) SELECT {values} FROM {deliveries.name}, "
                f"generate_series(1, {max(0, number - len(ids))}) AS n WHERE id = %s".encode(),
                [ids[0]],
            )
        connection.execute(
            f"UPDATE {deliveries.name} SET received_at = received_at - %s, due_at = due_at - %s "
            f"WHERE {_OF_ACCOUNT}".encode(),
            [_DELAY, _DELAY, account],
        )
    if is_replay:
        now = datetime.now(UTC)
        replay = begin_replay(database, now=now)
        with database.transaction() as transaction:
            for start in range(0, len(ids), 500):
                mark_pending(transaction, ids[start : start + 500], replay_id=replay.id, now=now)
    database.close()
    with psycopg.connect(site.url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) rapidbridge_deliveries")


def _measure_beside(
    site: Site, name: str, account: str, seconds: float, rounds: int
) -> tuple[Latency, float]:
    """Send a page a second beside the pages of another account, in every second round.

    Returns the times, and the throughput of the other account with them, relative to that without them.
    """
    rates: dict[bool, list[float]] = {False: [], True: []}
    times: list[float] = []
    time.sleep(5)
    for number in range(2 * rounds):
        is_beside = bool(number % 2)
        before, started_s = site.count_settled(account), time.monotonic()
        if is_beside:
            times += site.measure(name, 1.0, seconds).times_s
        else:
            time.sleep(seconds)
        rates[is_beside].append((site.count_settled(account) - before) / (time.monotonic() - started_s))
    print(f"{name}: pages/s of the backlog {rates}", flush=True)
    return Latency(name, 1.0, sorted(times)), median(rates[True]) / median(rates[False])


def main() -> None:
    """Print a table, one row for each case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.freshness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each case (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="beside the backlog (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: %(default)s)")
    parser.add_argument("--cases", default="rates,backlog,replay", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to save the measurements to")
    options = parser.parse_args()
    measured: list[Latency] = []
    with running_site(options.workers) as site:
        site.measure("warm up", 20.0, 3.0)
        if "rates" in options.cases:
            measured += [site.measure(f"{rate:g} a second", rate, options.seconds) for rate in _RATES]
            most = _measure_most(site, options.seconds)
            print(f"most: {most:.0f} pages a second", flush=True)
            measured.append(site.measure("80 % of the most", _BUSY_SHARE * most, options.seconds))
        # In this order: a replay waits for live deliveries. It ends before many rounds.
        for name, rounds in (("replay", 1), ("backlog", options.rounds)):
            if name in options.cases:
                _put_backlog(site, name, _BACKLOG, is_replay=name == "replay")
                latency, share = _measure_beside(
                    site, f"beside a {name}, 1 a second", name, options.seconds, rounds
                )
                measured.append(latency)
                print(f"throughput of the {name} beside it: {share:.1%}", flush=True)
        if "backlog" in options.cases:
            measured += [
                site.measure(f"beside a backlog, {rate:g} a second", rate, options.seconds)
                for rate in _RATES[1:]
            ]
    print("| case | pages/s | p50 ms | p99 ms | p99.9 ms |\n|---|--:|--:|--:|--:|")
    for one in measured:
        figures = " | ".join(f"{one.percentile_ms(percent):.1f}" for percent in (50, 99, 99.9))
        print(f"| {one.name} | {one.pages_per_s:.0f} | {figures} |")
    rows = [
        {"case": one.name, "pages_per_s": round(one.pages_per_s, 1), "time_s": round(time_s, 4)}
        for one in measured
        for time_s in one.times_s
    ]
    save_results(options.json, rows)


if __name__ == "__main__":
    main()
