"""What memory the processes take while they work, without a backlog and with one."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from redis import Redis

from benchmarks.seeded_inbox import BODY, fill_inbox
from tests.support.postgres import PostgresServer
from tests.support.processes import Command, find_descendants
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import WebProcess, make_environment

BACKLOG = 1_000_000
_SECONDS = 20.0
_MIB = 1024


def measure_memory(server: PostgresServer, backlog: int) -> Sequence[dict[str, Any]]:
    """Return and print what each process takes after working for a while, for no backlog and for this one."""
    rows = [row for number in (0, backlog) for row in _measure(server, number)]
    print("\nMemory, MiB: at the end, and at most\n")
    print(f"| | backlog of 0 | | backlog of {backlog:,} | |")
    print("|---|--:|--:|--:|--:|")
    for name in dict.fromkeys(row["process"] for row in rows):
        own = [row for row in rows if row["process"] == name]
        print(
            f"| {name} | " + " | ".join(f"{row['rss_mib']:.1f} | {row['peak_mib']:.1f}" for row in own) + " |"
        )
    return rows


def _measure(server: PostgresServer, backlog: int) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        folder, socket = (Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in "12")
        valkey = ValkeyServer(socket)
        stack.callback(valkey.stop)
        url = stack.enter_context(server.database())
        fill_inbox(url, backlog, is_pending=True)
        redis = stack.enter_context(Redis.from_url(valkey.url))
        settings = make_environment(DATABASE_URL=url, REDIS_URL=valkey.url)
        web = stack.enter_context(WebProcess(folder, database_url=url, redis_url=valkey.url))
        command = Command(["app.cli", "worker", "-n", "1"], folder=folder, environment=settings)
        worker = stack.enter_context(command)
        wait_until(lambda: redis.scard("rq:workers") == 1, what="a worker")
        _post_for(web, _SECONDS)
        processes = {"web, master": [web.pid], "web": find_descendants(web.pid)}
        processes |= {"supervisor": [worker.pid], "worker": find_descendants(worker.pid)}
        return [_row(backlog, name, pid) for name, pids in processes.items() for pid in pids]


def _post_for(web: WebProcess, seconds: float) -> None:
    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        assert web.post(BODY.replace(b"c-1", b"fresh-%d" % number)).http_status == 200
        number += 1


def _row(backlog: int, name: str, pid: int) -> dict[str, Any]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    rss, peak = (int(lines[name].split()[0]) / _MIB for name in ("VmRSS", "VmHWM"))
    return {"backlog": backlog, "process": name, "rss_mib": rss, "peak_mib": peak}
