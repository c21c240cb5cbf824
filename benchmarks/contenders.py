"""The servers that `accept` compares, each in two processes of its own."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from redis import Redis

from app.cli.local.ports import find_free_port
from app.database.engine import open_database
from app.store.migrate import migrate
from app.truto.target_url import WEBHOOK_PATH
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, WebProcess

_WEBHOOK_RULE = {
    "type": "payload-hmac-sha256",
    "secret": SECRET,
    "parameter": {"source": "header", "name": "X-Hub-Signature-256"},
}
_GTHREAD = ("--worker-class", "gthread", "--threads", "16")


@dataclass(frozen=True, slots=True)
class ComparedServers:
    """places: the port and path of each by name. urls: the stores'. redis: what some of them use."""

    addresses: Mapping[str, tuple[int, str]]
    database_urls: Mapping[str, str]
    redis: Redis


@contextmanager
def running_servers() -> Iterator[ComparedServers]:
    """Start all of them; they end with the block."""
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
            store = open_database(url)
            migrate(store)
            store.close()

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
        yield ComparedServers(places, urls, stack.enter_context(Redis.from_url(valkey.url)))


@contextmanager
def _webhook(folder: Path) -> Iterator[tuple[int, str]]:
    rule = {
        "id": "truto",
        "execute-command": "/bin/true",
        # Else it answers first and starts its programs later: they would run into the next one's turn.
        "include-command-output-in-response": True,
        "trigger-rule": {"match": _WEBHOOK_RULE},
    }
    (folder / "hooks.json").write_text(json.dumps([rule]))
    port = find_free_port()
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
