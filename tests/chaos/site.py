"""Two installations for faults, on the same Valkey and PostgreSQL, and each server with its standby."""

import signal
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from uuid import uuid4

import httpx

from app.cli.local.ports import find_free_port
from app.truto.target_url import WEBHOOK_PATH
from tests.support.container import build_container_command, can_run_containers
from tests.support.failover import PostgresPair, ValkeyPair
from tests.support.processes import ROOT, Lifeline, find_descendants, send_signal
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

# {files_options}: further lines of the sink lake. Nobody listens for the subscriber.
_ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[sinks.lake]
type = "files"
url = "file://{lake}"
{files_options}

[[notify]]
name = "nobody"
url = "{subscriber}"
secret = "{subscriber_secret}"

[[routes]]
resource = "crm/contacts"
sinks = ["main", "lake"]

[[routes]]
sinks = ["main"]
"""
# A load is written soon, so that a test can wait for its end.
SOON = "max_file_age_s = 2"
# The Procfile's commands, which can also run from another source tree.
_WEB = [sys.executable, "-m", "gunicorn", "--config", "app/web/gunicorn_conf.py", "app.web.wsgi:app"]
_WORKERS = [sys.executable, "-m", "app.cli", "worker"]
# Containers of one image may share a host name, and then their workers share their process ids, too.
_HOST_NAME = "worker"
# The time of a platform between SIGTERM and SIGKILL.
_PLATFORM_GRACE_S = 30.0
_PAGE_TIMEOUT_S = 2.0
_COMMAND_TIMEOUT_S = 120.0


class Program:
    """A process with children, started from a source tree; a restart appends to its log.

    host_name: it runs in a container with this name; "" for none.
    """

    def __init__(
        self, command: Sequence[str], tree: Path, settings: dict[str, str], log: Path, *, host_name: str = ""
    ) -> None:
        self._command = build_container_command(command, host_name) if host_name else command
        self._is_container = bool(host_name)
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
        self._lifeline = Lifeline(self._process.pid)

    @property
    def children(self) -> list[int]:
        """The ids of its child processes, in ascending order."""
        return sorted(find_descendants(self.pid))

    @property
    def pid(self) -> int:
        """The id of the process, inside of its container if it has one."""
        assert self._process is not None
        if not self._is_container:
            return self._process.pid
        # The container's first process comes before the command.
        wait_until(lambda: len(self._family) > 2, what=lambda: f"a container\n{self.log.read_text()[-2000:]}")
        return self._family[2]

    def kill(self) -> None:
        """Kill it and its children, as the loss of a machine does."""
        assert self._process is not None
        self._lifeline.disarm()
        if self._process.poll() is None:
            send_signal(signal.SIGKILL, self._family)
            self._process.wait()

    def terminate(self) -> None:
        """Send SIGTERM, as a platform does. Fails if it does not end within the platform's time."""
        assert self._process is not None
        self._lifeline.disarm()
        family = self._family
        send_signal(signal.SIGTERM, [self.pid])
        try:
            self._process.wait(_PLATFORM_GRACE_S)
        except subprocess.TimeoutExpired:
            send_signal(signal.SIGKILL, family)
            self._process.wait()
            raise AssertionError(
                f"{self._command} took more than {_PLATFORM_GRACE_S} s to end; its log: {self.log}"
            ) from None

    @property
    def _family(self) -> list[int]:
        assert self._process is not None
        return [self._process.pid, *find_descendants(self._process.pid)]


class Installation:
    """One installation of the service: its database, its settings and its programs.

    name: of the installation, the folder of its logs and files, and its accounts. tree: the source that runs.
    machines: the number of programs with one worker each; several run in containers of the same host name.
    files_options: lines in the table of the sink lake.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        tree: Path,
        database_url: str,
        redis_url: str,
        *,
        web_processes: int,
        machines: int,
        files_options: str = SOON,
    ) -> None:
        self.name = name
        self.database_url = database_url
        self.secret = str(uuid4())
        # What no log line and no page may show, by its name.
        self.canaries = {"webhook secret": self.secret} | {
            secret: f"zq7-{uuid4().hex}"
            for secret in (
                "API token",
                "password of Truto",
                "password of the database",
                "password of Redis",
                "dashboard password",
                "read-only password",
                "metrics token",
                "path of a subscriber",
            )
        }
        self.canaries["encryption key"] = b64encode(uuid4().bytes * 2).decode()
        self.canaries["secret of a subscriber"] = f"whsec_{b64encode(uuid4().bytes * 2).decode()}"
        self.lake = folder / name / "lake"
        self.lake.mkdir(parents=True)
        self._routes_file = folder / name / "routes.toml"
        self.write_routes(files_options)
        database_login = f"postgres:{self.canaries['password of the database']}@"
        redis_login = f"//default:{self.canaries['password of Redis']}@"
        self._settings = {
            # The servers accept any password.
            "DATABASE_URL": database_url.replace("postgres@", database_login, 1),
            "REDIS_URL": redis_url.replace("//", redis_login, 1),
            "TRUTO_WEBHOOK_SECRET": self.secret,
            "TRUTO_API_TOKEN": self.canaries["API token"],
            # Nobody listens there.
            "TRUTO_API_URL": f"http://user:{self.canaries['password of Truto']}@127.0.0.1:9",
            "DASHBOARD_PASSWORD": self.canaries["dashboard password"],
            "DASHBOARD_READ_PASSWORD": self.canaries["read-only password"],
            "METRICS_TOKEN": self.canaries["metrics token"],
            # The comparison reads the stored bodies.
            "ENCRYPTION_KEYS": f"off,{self.canaries['encryption key']}",
            "ROUTES_FILE": str(self._routes_file),
            "WEB_CONCURRENCY": str(web_processes),
            "WORKER_CONCURRENCY": "1",
        }
        self._machines = machines
        self._deploy(tree, folder / name)

    def build_beside(self, tree: Path, logs: Path) -> Self:
        """Return the same installation with programs of another source tree, on another port."""
        beside = copy(self)
        logs.mkdir(parents=True)
        beside._deploy(tree, logs)
        return beside

    def _deploy(self, tree: Path, logs: Path) -> None:
        self.tree = tree
        port = find_free_port()
        self._url = f"http://127.0.0.1:{port}"
        self.webhook_url = f"{self._url}{WEBHOOK_PATH}"
        settings = self._settings | {"PORT": str(port)}
        self.web = Program(_WEB, tree, settings, logs / "web.log")
        host_name = _HOST_NAME if self._machines > 1 and can_run_containers() else ""
        self.workers = [
            Program(_WORKERS, tree, settings, logs / f"workers-{number}.log", host_name=host_name)
            for number in range(1, self._machines + 1)
        ]

    def write_routes(self, files_options: str) -> None:
        """Replace the routes file. files_options: lines in the table of the sink lake."""
        text = _ROUTES.format(
            lake=self.lake,
            files_options=files_options,
            subscriber=f"http://127.0.0.1:9/{self.canaries['path of a subscriber']}",
            subscriber_secret=self.canaries["secret of a subscriber"],
        )
        self._routes_file.write_text(text)

    def migrate(self) -> None:
        """Migrate the database with the release that runs."""
        self.run_command("migrate").check_returncode()

    def run_command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the release that runs, to its end; return its exit code and output."""
        return subprocess.run(
            [sys.executable, "-m", "app.cli", *words],
            cwd=self.tree,
            env=make_environment(**self._settings) | {"PYTHONPATH": str(self.tree)},
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )

    @property
    def programs(self) -> Sequence[Program]:
        """The web program, and those of the workers."""
        return [self.web, *self.workers]

    @property
    def readiness_error(self) -> str:
        """The answer of /readyz while the service is not ready, "" if it is."""
        return self._request_error("/readyz")

    def wait_until_up(self) -> None:
        """Wait until the web process answers at all."""
        wait_until(
            lambda: not self._request_error("/healthz"),
            what=lambda: f"the web process\n{self.web.log.read_text()}",
        )

    def read_page(self, path: str) -> str:
        """Return an answer of the web process, as the owner of the token of metrics; "" if there is none."""
        headers = {"Authorization": f"Bearer {self.canaries['metrics token']}"}
        try:
            return httpx.get(f"{self._url}{path}", headers=headers, timeout=_PAGE_TIMEOUT_S).text
        except httpx.HTTPError:
            return ""

    def _request_error(self, path: str) -> str:
        try:
            answer = httpx.get(f"{self._url}{path}", timeout=10)
        except httpx.HTTPError as error:
            return type(error).__name__
        return "" if answer.status_code == 200 else answer.text.strip()


@dataclass(frozen=True, slots=True)
class Site:
    """The servers and installations.

    main: has the faults. neighbour: a smaller one, with a database of its own on the same servers.
    released_leases: descriptions of leases that a living worker lost.
    """

    valkey: ValkeyPair
    postgres: PostgresPair
    main: Installation
    neighbour: Installation
    released_leases: list[str] = field(default_factory=list)

    @property
    def installations(self) -> Sequence[Installation]:
        """Both installations."""
        return [self.main, self.neighbour]


@contextmanager
def running_site(
    folder: Path, *, tree: Path = ROOT, is_durable: bool = True, files_options: str = SOON
) -> Iterator[Site]:
    """Start the installations; end all of it after the block. Logs and files stay in the folder."""
    with ExitStack() as stack:
        # Not in the folder: paths of sockets must be short, and another user must reach PostgreSQL's.
        places = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rb-"))) for _ in range(2)]
        # With persistence, which docs/guarantees.md requires if the spool must survive a restart of Redis.
        valkey = ValkeyPair(places[0], "--appendonly", "yes")
        stack.callback(valkey.stop)
        postgres = PostgresPair(places[1], is_durable=is_durable)
        stack.callback(postgres.stop)
        urls = [stack.enter_context(postgres.database()) for _ in range(2)]
        sizes = {"main": (2, 2), "neighbour": (1, 1)}
        main, neighbour = (
            Installation(
                name,
                folder,
                tree,
                url,
                valkey.url,
                web_processes=web_processes,
                machines=machines,
                files_options=files_options,
            )
            for url, (name, (web_processes, machines)) in zip(urls, sizes.items(), strict=True)
        )
        site = Site(valkey, postgres, main, neighbour)
        for installation in site.installations:
            installation.migrate()
            for program in installation.programs:
                program.start()
                stack.callback(program.kill)
        for installation in site.installations:
            installation.wait_until_up()
        yield site
