"""One installation for faults: Valkey, PostgreSQL, gunicorn and workers, each a process."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from app.cli.local.ports import find_free_port
from app.database.engine import open_database
from app.store.migrate import migrate
from app.truto.target_url import WEBHOOK_PATH
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT, Lifeline, find_descendants, send_signal
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, make_environment

ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[sinks.lake]
type = "files"
url = "file://{lake}"

[[routes]]
resource = "crm/contacts"
sinks = ["main", "lake"]

[[routes]]
sinks = ["main"]
"""
# The Procfile's commands, which can also run from another source tree.
_WEB = [sys.executable, "-m", "gunicorn", "--config", "app/web/gunicorn_conf.py", "app.web.wsgi:app"]
_WORKERS = [sys.executable, "-m", "app.cli", "worker"]
# The time of a platform between SIGTERM and SIGKILL.
_PLATFORM_GRACE_S = 30.0


class Program:
    """A process with children, started from a source tree; a restart appends to its log."""

    def __init__(self, command: Sequence[str], tree: Path, settings: dict[str, str], log: Path) -> None:
        self._command = command
        self._tree = tree
        self._environment = make_environment(**settings) | {"PYTHONPATH": str(tree)}
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it without waiting until it is ready."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._tree,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._lifeline = Lifeline(self.pid)

    @property
    def children(self) -> list[int]:
        """The ids of its child processes, in ascending order."""
        return sorted(find_descendants(self.pid))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill it and its children, as the loss of a machine does."""
        assert self._process is not None
        self._lifeline.disarm()
        if self._process.poll() is None:
            send_signal(signal.SIGKILL, [self.pid, *self.children])
            self._process.wait()

    def terminate(self) -> None:
        """Send SIGTERM, as a platform does. Fails if it does not end within the platform's time."""
        assert self._process is not None
        self._lifeline.disarm()
        family = [self.pid, *self.children]
        self._process.terminate()
        try:
            self._process.wait(_PLATFORM_GRACE_S)
        except subprocess.TimeoutExpired:
            send_signal(signal.SIGKILL, family)
            self._process.wait()
            raise AssertionError(
                f"{self._command} took more than {_PLATFORM_GRACE_S} s to end; its log: {self.log}"
            ) from None


class Site:
    """A running installation. tree: the source that runs. folder: for logs and files."""

    def __init__(
        self, folder: Path, valkey: ValkeyServer, postgres: PostgresServer, url: str, tree: Path
    ) -> None:
        self.valkey = valkey
        self.postgres = postgres
        self.database_url = url
        self.lake = folder / "lake"
        self.lake.mkdir()
        (folder / "routes.toml").write_text(ROUTES.format(lake=self.lake))
        port = find_free_port()
        self._url = f"http://127.0.0.1:{port}"
        self.webhook_url = f"{self._url}{WEBHOOK_PATH}"
        settings = {
            "DATABASE_URL": url,
            "REDIS_URL": valkey.url,
            "TRUTO_WEBHOOK_SECRET": SECRET,
            "ROUTES_FILE": str(folder / "routes.toml"),
            "PORT": str(port),
            "WEB_CONCURRENCY": "2",
            "WORKER_CONCURRENCY": "2",
        }
        self.web = Program(_WEB, tree, settings, folder / "web.log")
        self.workers = Program(_WORKERS, tree, settings, folder / "workers.log")

    @property
    def readiness_error(self) -> str:
        """The answer of /readyz while the service is not ready, "" if it is."""
        return self._request_error("/readyz")

    @property
    def is_up(self) -> bool:
        """Whether the web process answers at all."""
        return not self._request_error("/healthz")

    def _request_error(self, path: str) -> str:
        try:
            answer = httpx.get(f"{self._url}{path}", timeout=10)
        except httpx.HTTPError as error:
            return type(error).__name__
        return "" if answer.status_code == 200 else answer.text.strip()


@contextmanager
def running_site(folder: Path, *, tree: Path = ROOT, is_durable: bool = True) -> Iterator[Site]:
    """Start an installation; end all of it after the block. Logs and files stay in the folder."""
    with ExitStack() as stack:
        # Not in the folder: paths of sockets must be short, and another user must reach PostgreSQL's.
        places = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(2)]
        # With persistence, which docs/guarantees.md requires if the spool must survive a restart of Redis.
        valkey = ValkeyServer(places[0], "--appendonly", "yes")
        stack.callback(valkey.stop)
        postgres = PostgresServer(places[1], is_durable=is_durable)
        stack.callback(postgres.stop)
        url = stack.enter_context(postgres.database())
        store = open_database(url)
        migrate(store)
        store.close()
        site = Site(folder, valkey, postgres, url, tree)
        for program in (site.web, site.workers):
            program.start()
            stack.callback(program.kill)
        wait_until(lambda: site.is_up, what=lambda: f"the web process\n{site.web.log.read_text()}")
        yield site
