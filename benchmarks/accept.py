"""How many deliveries a second are accepted: `python -m benchmarks.accept`.

Compares, within one run on one machine, a Flask application that reads the body and answers with the receiver
on SQLite and on PostgreSQL, both committing durably. Two gunicorn processes, 32 connections, load generator
and databases on the same cores: the ratios hold elsewhere, the absolutes do not.
"""

import itertools
import json
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.simulator.records import make_record
from app.store.engine import open_store
from app.store.migrate import migrate
from app.truto.signature import sign
from tests.servers.postgres import PostgresServer
from tests.servers.receiver import SECRET, WebProcess
from tests.servers.valkey import ValkeyServer

_CONNECTIONS = 32
_SECONDS = 6.0
_RECORDS = (1, 50, 500)


def _bodies(records: int) -> Iterator[bytes]:
    made = [make_record("crm/contacts", "account", index, "1") for index in range(records)]
    payload = {"resource": "crm/contacts", "method": "list", "sync_job_run_id": "r", "records": made}
    rest = json.dumps({"event": "sync_job_run:record", "payload": payload}, ensure_ascii=False)[1:]
    for number in itertools.count():
        yield f'{{"id": "{number}", {rest}'.encode()


def _send(
    port: int, requests: Iterator[bytes], lock: threading.Lock, until: float, counts: list[int]
) -> None:
    answered = 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while time.monotonic() < until:
            with lock:
                body = next(requests)
            head = (
                "POST /webhooks/truto HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"X-Truto-Signature: {sign(body, SECRET)}\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            connection.sendall(head.encode() + body)
            answer = b""
            while b"}" not in answer:
                answer += connection.recv(65536)
            assert b"accepted" in answer, answer
            answered += 1
    counts.append(answered)


def _measure(port: int, records: int) -> float:
    counts: list[int] = []
    requests, lock, started = _bodies(records), threading.Lock(), time.monotonic()
    arguments = (port, requests, lock, started + _SECONDS, counts)
    senders = [threading.Thread(target=_send, args=arguments) for _ in range(_CONNECTIONS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return sum(counts) / (time.monotonic() - started)


@contextmanager
def _receiver(database_url: str, redis_url: str, application: str = "app.web.wsgi:app") -> Iterator[int]:
    store = open_store(database_url)
    migrate(store)
    store.dispose()
    with tempfile.TemporaryDirectory() as folder:
        process = WebProcess(
            Path(folder),
            database_url=database_url,
            redis_url=redis_url,
            application=application,
            WEB_CONCURRENCY="2",
        )
        with process:
            yield process.port


def main() -> None:
    """Print a table: requests a second, and their share of what the bare application reaches."""
    print(f"{'records':>8} {'bare':>8} {'sqlite':>16} {'postgresql':>16}   requests/s (share of bare)")
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(3)]
        valkey, postgres = ValkeyServer(folders[0]), PostgresServer(folders[1], is_durable=True)
        stack.callback(valkey.stop)
        stack.callback(postgres.stop)
        for records in _RECORDS:
            sqlite_url = f"sqlite:///{folders[2]}/{records}.db"
            with postgres.database() as postgres_url:
                rates = []
                for url, application in (
                    (sqlite_url, "benchmarks.bare:app"),
                    (sqlite_url, "app.web.wsgi:app"),
                    (postgres_url, "app.web.wsgi:app"),
                ):
                    with _receiver(url, valkey.url, application) as port:
                        rates.append(_measure(port, records))
            shares = "".join(f"{rate:>9,.0f} ({rate / rates[0]:>4.0%})" for rate in rates[1:])
            print(f"{records:>8} {rates[0]:>8,.0f} {shares}", flush=True)


if __name__ == "__main__":
    main()
