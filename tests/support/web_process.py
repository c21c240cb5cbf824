"""The web process as the Procfile starts it: gunicorn on a free port."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from app.cli.local.ports import find_free_port
from app.config.settings import list_setting_names
from app.truto.signature import sign
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
SECRET = "0b6ad2b7-5cf4-4b19-9d0e-5d9e7ad0a4a1"
# A state in /proc/net/tcp.
_ESTABLISHED = "01"


def read_procfile_command(process: str) -> list[str]:
    """Return the command of a Procfile process, run by this interpreter."""
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    words = shlex.split(lines[process])
    return [sys.executable, *words[1:]] if words[0] == "python" else [sys.executable, "-m", *words]


def make_environment(**settings: str) -> dict[str, str]:
    """Return this process's environment with these settings of the receiver and no others."""
    names = set(list_setting_names())
    others = {name: value for name, value in os.environ.items() if name not in names}
    # Tests read lines of `key=value`.
    return others | {"LOG_FORMAT": "text"} | settings


@dataclass(frozen=True, slots=True)
class ParsedResponse:
    """An answer of the receiver."""

    http_status: int
    status: str
    delivery: str | None
    message: str
    headers: httpx.Headers


class WebProcess:
    """gunicorn with a database and a Redis; a context manager. log: its output so far.

    options: of gunicorn, with {port} for the port. prefix: a program that starts gunicorn, such as `prlimit`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        database_url: str,
        redis_url: str,
        application: str = "",
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        **settings: str,
    ) -> None:
        line = read_procfile_command("web")
        self.port = find_free_port()
        formatted = [option.format(port=self.port) for option in options]
        self._line = [*prefix, *line[:-1], *formatted, application or line[-1]]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"web-{self.port}.log"
        self._folder = folder
        self.environment = make_environment(
            DATABASE_URL=database_url,
            REDIS_URL=redis_url,
            PORT=str(self.port),
            **{"TRUTO_WEBHOOK_SECRET": SECRET, "WEB_CONCURRENCY": "1", **settings},
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=self.url, timeout=120)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._line, cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        process = self._process

        def answers() -> bool:
            assert process.poll() is None, self.log
            try:
                return self._client.get("/healthz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, timeout_s=20, what=lambda: f"the web process to answer\n{self.log}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self.terminate()
        self.wait()

    def terminate(self) -> None:
        """Send SIGTERM, as a platform does at a deploy."""
        assert self._process is not None
        self._process.terminate()

    def reload(self) -> None:
        """Send SIGHUP, which replaces the processes that serve."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def wait(self) -> None:
        """Wait until it has ended; fail if it takes more than 30 s."""
        assert self._process is not None
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def connection_count(self) -> int:
        """The number of open TCP connections to it, without the one that `post` uses."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        local = f":{self.port:04X}"
        open_lines = [
            line for line in lines if line.split()[1].endswith(local) and line.split()[3] == _ESTABLISHED
        ]
        return len(open_lines) - 1

    @property
    def unread_connection_count(self) -> int:
        """The number of open TCP connections with sent bytes that the process has not read."""
        unread: set[int] = set()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, queues, *_ = line.split()
            if state != _ESTABLISHED:
                continue
            ports = [int(address.rpartition(":")[2], 16) for address in (local, remote)]
            sending_bytes, received_bytes = (int(queue, 16) for queue in queues.split(":"))
            if ports[0] == self.port and received_bytes:
                unread.add(ports[1])
            if ports[1] == self.port and sending_bytes:
                unread.add(ports[0])
        return len(unread)

    def post(self, body: bytes, signature: str | None = None, *, chunked: bool = False) -> ParsedResponse:
        """POST a body as Truto does; signed with SECRET unless a signature is given ("" for none)."""
        header = sign(body, SECRET) if signature is None else signature
        headers = {b"Content-Type": b"application/json", b"User-Agent": b"truto"}
        if header:
            headers[b"X-Truto-Signature"] = header.encode("latin-1")
        content = _split_into_chunks(body) if chunked else body
        return parse_response(self._client.post("/webhooks/truto", content=content, headers=headers))

    def request(self, method: str, path: str) -> ParsedResponse:
        """Send another request, without a body."""
        return parse_response(self._client.request(method, path))


def parse_response(response: httpx.Response) -> ParsedResponse:
    """Read an answer, which is always JSON."""
    content = response.json()
    return ParsedResponse(
        response.status_code,
        content["status"],
        content.get("delivery"),
        content.get("message", ""),
        response.headers,
    )


def _split_into_chunks(body: bytes) -> Iterator[bytes]:
    # An iterator, so that httpx sends it chunked.
    yield from (body[start : start + 65536] for start in range(0, len(body), 65536))
