"""No signed body keeps a web process from other deliveries, or takes much of its memory."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import msgspec
import pytest

from app.database.engine import open_database
from app.store.migrate import migrate
from app.truto.signature import sign
from tests.support.dashboard import SETTINGS as DASHBOARD
from tests.support.hostile_bodies import SHAPES, build_body
from tests.support.web_process import SECRET, WebProcess

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_STEP_CPU_S = 0.25


def start(folder: Path, redis_url: str) -> WebProcess:
    database_url = f"sqlite:///{folder}/inbox.db"
    store = open_database(database_url)
    migrate(store)
    store.close()
    application = "tests.support.observed_web:app"
    return WebProcess(
        folder, database_url=database_url, redis_url=redis_url, application=application, **DASHBOARD
    )


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[WebProcess]:
    with start(tmp_path_factory.mktemp("web"), redis_url) as process:
        yield process


class OtherDeliveries:
    """Sends small deliveries one after the other; a context manager. count: the number of answers."""

    def __init__(self, web: WebProcess) -> None:
        self.count = 0
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
            self._deliver()

    def _deliver(self) -> None:
        body = b'{"event": "test", "id": "%s"}' % uuid4().hex.encode()
        headers = {"X-Truto-Signature": sign(body, SECRET)}
        answer = self._client.post("/webhooks/truto", content=body, headers=headers)
        assert answer.json()["status"] == "accepted"
        self.count += 1


def read_peak_memory_bytes(web: WebProcess) -> int:
    """Return the most memory that its worker process has used so far."""
    [worker_pid] = Path(f"/proc/{web.pid}/task/{web.pid}/children").read_text().split()
    lines = Path(f"/proc/{worker_pid}/status").read_text().splitlines()
    [peak] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) * 1024


@pytest.fixture(scope="module")
def max_step_cpu_s() -> float:
    """The most CPU time between two turns of the other requests: longer on a slower machine."""
    body = build_body("sound empty objects", MAX_BODY_BYTES)
    started_s = time.thread_time()
    msgspec.json.decode(body, type=msgspec.Raw)
    return max(MAX_STEP_CPU_S, 3 * (time.thread_time() - started_s))


def measure_longest_step_cpu_s(web: WebProcess, send: Callable[[], object]) -> float:
    """Return the most CPU time in which no other request had a turn, while one was served."""
    httpx.get(f"{web.url}/longest-step", timeout=60)
    send()
    longest_s: float = httpx.get(f"{web.url}/longest-step", timeout=60).json()["cpu_s"]
    return longest_s


def choose_size(shape: str) -> int:
    """Return the size of a shape's body: smaller if all of it is scanned in slices, which takes seconds."""
    is_scanned = "NaN" in shape or "without an end" in shape or "members in" in shape
    return MAX_BODY_BYTES // 8 if is_scanned else MAX_BODY_BYTES


@pytest.mark.parametrize("shape", SHAPES)
def test_no_step_of_a_signed_body_takes_long(web: WebProcess, shape: str, max_step_cpu_s: float) -> None:
    body = build_body(shape, choose_size(shape))
    signature = sign(body, SECRET)

    def send() -> None:
        assert web.post(body, signature).http_status == 200

    assert measure_longest_step_cpu_s(web, send) < max_step_cpu_s


def test_no_step_of_an_incompressible_body_takes_long(web: WebProcess, max_step_cpu_s: float) -> None:
    body = random.Random(0).randbytes(MAX_BODY_BYTES)  # no secret
    signature = sign(body, SECRET)

    assert measure_longest_step_cpu_s(web, lambda: web.post(body, signature)) < max_step_cpu_s


@pytest.mark.parametrize("signature", ["", "v=" + "0" * 64])
@pytest.mark.parametrize("chunked", [False, True])
def test_no_step_of_a_refused_body_takes_long(
    web: WebProcess, signature: str, max_step_cpu_s: float, *, chunked: bool
) -> None:
    def send() -> None:
        with suppress(httpx.WriteError, httpx.ReadError):
            assert web.post(bytes(MAX_BODY_BYTES), signature, chunked=chunked).http_status == 401

    assert measure_longest_step_cpu_s(web, send) < max_step_cpu_s


FORMS = {
    "application/x-www-form-urlencoded": b"a=&",
    "multipart/form-data; boundary=x": b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n',
    "multipart/form-data; boundary=y": b"--y\r\nA: b\r\n",
    "multipart/form-data; boundary=z": b"\n--z-",
}


@pytest.mark.parametrize("path", ["/login", "/logout", "/sinks/main/pause"])
@pytest.mark.parametrize("content_type", FORMS)
@pytest.mark.parametrize("size", [60_000, MAX_BODY_BYTES])
def test_no_step_of_a_form_takes_long(
    web: WebProcess, path: str, content_type: str, size: int, max_step_cpu_s: float
) -> None:
    part = FORMS[content_type]
    form = part * (size // len(part))
    headers = {"Content-Type": content_type}

    def send() -> None:
        with suppress(httpx.WriteError, httpx.ReadError):
            response = httpx.post(f"{web.url}{path}", content=form, headers=headers, timeout=60)
            assert 300 <= response.status_code < 500

    assert measure_longest_step_cpu_s(web, send) < max_step_cpu_s


def test_many_large_bodies_at_once_delay_no_other_delivery(web: WebProcess, max_step_cpu_s: float) -> None:
    body = build_body("records and NaN", 4 * 1024 * 1024)
    headers = {"X-Truto-Signature": sign(body, SECRET)}
    url = f"{web.url}/webhooks/truto"

    def send() -> None:
        with ThreadPoolExecutor(12) as senders:
            sent = [
                senders.submit(httpx.post, url, content=body, headers=headers, timeout=120) for _ in range(12)
            ]
            assert {future.result().status_code for future in sent} == {200}

    with OtherDeliveries(web) as others:
        longest_s = measure_longest_step_cpu_s(web, send)

    assert longest_s < max_step_cpu_s
    assert others.count > 10


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
