"""No signed body keeps a web process from other deliveries, or takes much of its memory."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from app.database.engine import open_database
from app.store.migrate import migrate
from app.truto.signature import sign
from tests.support.hostile_bodies import build_body
from tests.support.waiting import measure_slowdown
from tests.support.web_process import SECRET, WebProcess

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_DELAY_S = 0.25


def start(folder: Path, redis_url: str) -> WebProcess:
    database_url = f"sqlite:///{folder}/inbox.db"
    store = open_database(database_url)
    migrate(store)
    store.close()
    return WebProcess(folder, database_url=database_url, redis_url=redis_url)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[WebProcess]:
    with start(tmp_path_factory.mktemp("web"), redis_url) as process:
        yield process


class OtherDeliveries:
    """Sends small deliveries one after the other; a context manager. longest_s: the slowest answer."""

    def __init__(self, web: WebProcess) -> None:
        self.longest_s = 0.0
        self._client = httpx.Client(base_url=web.url, timeout=120)
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "OtherDeliveries":
        self._deliver()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()
        self._client.close()

    def _send(self) -> None:
        while not self._is_done.wait(0.005):
            started_at = time.monotonic()
            self._deliver()
            self.longest_s = max(self.longest_s, time.monotonic() - started_at)

    def _deliver(self) -> None:
        body = b'{"event": "test", "id": "%s"}' % uuid4().hex.encode()
        headers = {"X-Truto-Signature": sign(body, SECRET)}
        answer = self._client.post("/webhooks/truto", content=body, headers=headers)
        assert answer.json()["status"] == "accepted"


def read_peak_memory_bytes(web: WebProcess) -> int:
    """Return the most memory that its worker process has used so far."""
    [worker_pid] = Path(f"/proc/{web.pid}/task/{web.pid}/children").read_text().split()
    lines = Path(f"/proc/{worker_pid}/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) * 1024


@pytest.mark.parametrize(
    ("shape", "status"),
    [
        ("arrays without an end", "quarantined"),
        ("arrays that end wrongly", "quarantined"),
        ("a long event name", "quarantined"),
        ("empty objects and NaN", "accepted"),
        ("records and NaN", "accepted"),
        ("one payload after the other", "accepted"),
        ("objects in meta", "accepted"),
        ("arrays in meta", "accepted"),
    ],
)
def test_a_large_body_of_any_shape_delays_no_other_delivery(web: WebProcess, shape: str, status: str) -> None:
    body = build_body(shape, MAX_BODY_BYTES)
    signature = sign(body, SECRET)
    slowdown = measure_slowdown()

    with OtherDeliveries(web) as others:
        answer = web.post(body, signature)

    assert (answer.http_status, answer.status) == (200, status)
    assert others.longest_s < MAX_DELAY_S * max(slowdown, measure_slowdown())


def test_many_large_bodies_at_once_delay_no_other_delivery(web: WebProcess) -> None:
    body = build_body("records and NaN", 4 * 1024 * 1024)
    headers = {"X-Truto-Signature": sign(body, SECRET)}
    slowdown = measure_slowdown()

    with OtherDeliveries(web) as others, ThreadPoolExecutor(12) as senders:
        sent = [
            senders.submit(
                httpx.post, f"{web.url}/webhooks/truto", content=body, headers=headers, timeout=120
            )
            for _ in range(12)
        ]
        statuses = {future.result().status_code for future in sent}

    assert statuses == {200}
    assert others.longest_s < MAX_DELAY_S * max(slowdown, measure_slowdown())


def test_large_bodies_take_a_small_multiple_of_their_size(tmp_path: Path, redis_url: str) -> None:
    with start(tmp_path, redis_url) as web:
        web.post(b'{"event": "test"}')
        before_bytes = read_peak_memory_bytes(web)

        for shape in (
            "objects in meta",
            "objects in a run",
            "arrays without an end",
            "empty objects and NaN",
        ):
            web.post(build_body(shape, MAX_BODY_BYTES))

        assert read_peak_memory_bytes(web) - before_bytes < 5 * MAX_BODY_BYTES


def test_a_long_name_is_not_logged_whole(web: WebProcess) -> None:
    body = build_body("a long event name", 3 * 1024 * 1024)

    answer = web.post(body)

    assert (answer.status, answer.message) == ("quarantined", "name_too_long")
    assert max(map(len, web.log.splitlines())) < 2000
