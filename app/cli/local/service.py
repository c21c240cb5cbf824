"""The whole service on one machine, for `up` and `demo`."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from app import web
from app.cli.local.ports import require_free_port
from app.cli.local.supervisor import Supervisor
from app.cli.local.temporary_folder import temporary_folder
from app.cli.local.valkey import build_valkey_command, recorded_url
from app.config.settings import build_child_environment
from app.errors import QueueUnavailable, StoreUnavailable
from app.http_client import open_http_client, send
from app.redis.connection import connect_redis
from app.redis.queue import UNNAMED, DeliveryQueue

_START_TIMEOUT_S = 30.0
_POLL_INTERVAL_S = 0.1


@contextmanager
def running_service(settings: Mapping[str, str], *, folder: Path | None = None) -> Iterator[Supervisor]:
    """Start Valkey, a worker and the web server; yield once the web server answers; stop them at the end.

    Valkey is started only without REDIS_URL. settings: the complete settings of the processes, by name.
    folder: their working directory and the place of their log, so that a `.env` or routes file here has no
    effect on them. Raises ConfigError if the port is in use, QueueUnavailable and StoreUnavailable if a
    process does not start.
    """
    require_free_port(int(settings["PORT"]))
    # Signals first: a folder that is made before would be left behind by one.
    with (
        Supervisor(folder) as supervisor,
        temporary_folder("rapidbridge-") as sockets,
        ExitStack() as cleanup,
    ):
        cleanup.callback(supervisor.stop)
        # Read by a person, even if it goes to a file.
        settings = {"LOG_FORMAT": "text", **settings}
        if "REDIS_URL" not in settings:
            command, settings["REDIS_URL"] = build_valkey_command(sockets)
            supervisor.start("valkey", command, build_child_environment({}))
            _wait_for_valkey(settings["REDIS_URL"], supervisor)
            cleanup.enter_context(recorded_url(settings["REDIS_URL"], folder))
        environment = build_child_environment(settings)
        supervisor.start("worker", [sys.executable, "-m", "app.cli", "worker"], environment)
        config_path = str(Path(str(web.__file__)).with_name("gunicorn_conf.py"))
        gunicorn = [sys.executable, "-m", "gunicorn", "--config", config_path, "app.web.wsgi:app"]
        supervisor.start("web", gunicorn, environment)
        _wait_for_web(f"http://127.0.0.1:{settings['PORT']}/healthz", supervisor)
        yield supervisor


def _wait_for_valkey(url: str, supervisor: Supervisor) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    queue = DeliveryQueue(connect_redis(url, tls_verify=True), UNNAMED)
    while time.monotonic() < deadline and supervisor.is_alive("valkey"):
        try:
            queue.ping()
        except QueueUnavailable:
            time.sleep(_POLL_INTERVAL_S)
        else:
            return
    raise QueueUnavailable(f"the embedded Valkey did not start; {_describe_output(supervisor)}")


def _wait_for_web(url: str, supervisor: Supervisor) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and supervisor.is_alive("web"):
        try:
            with open_http_client(allow_private=True, trust_env=False) as client:
                send(client, "GET", url, timeout_s=_START_TIMEOUT_S, max_bytes=None).raise_for_status()
        except httpx.HTTPError:
            time.sleep(_POLL_INTERVAL_S)
        else:
            return
    raise StoreUnavailable(f"the web process did not start; {_describe_output(supervisor)}")


def _describe_output(supervisor: Supervisor) -> str:
    output = supervisor.read_output()
    return f"its output:\n{output}" if output else "its output is above"
