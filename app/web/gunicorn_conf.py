"""gunicorn's settings: `gunicorn --config app/web/gunicorn_conf.py app.web.wsgi:app`."""

import gc
import sys
import warnings
from pathlib import Path
from typing import Any

from gevent import monkey

from app.config.load import read_config
from app.config.operating_system import (
    compute_max_connections,
    find_heartbeat_folder,
    hold_stop_signals_in_forks,
    keep_new_files_private,
    list_wildcard_addresses,
    raise_max_files,
)
from app.config.summary import log_dangerous_settings
from app.errors import ConfigError
from app.logs import configure_logging
from app.tracing import tracing
from app.web.worker_slots import worker_slots

_NO_PRELOAD = (
    "gunicorn: --preload is set, and the application starts threads, which a fork does not copy. Remove it, "
    "also from GUNICORN_CMD_ARGS: Render sets that, so start with: env -u GUNICORN_CMD_ARGS gunicorn …"
)

try:
    _config = read_config(required=("TRUTO_WEBHOOK_SECRET", "REDIS_URL"))
    _settings = _config.settings
    _folder = find_heartbeat_folder()
    if _folder is None:
        raise ConfigError(
            ["No folder for gunicorn's heartbeat is writable. Mount one: docker run --tmpfs /tmp"]
        )
except ConfigError as _error:
    print(*_error.problems, sep="\n", file=sys.stderr)  # noqa: T201  # before any log is set up
    sys.exit(2)

keep_new_files_private()
configure_logging(_settings.log_format)
log_dangerous_settings(_config)
logger_class = "app.web.gunicorn_log.GunicornLog"
_addresses = list_wildcard_addresses()
bind = [
    f"[{address}]:{_settings.port}" if ":" in address else f"{address}:{_settings.port}"
    for address in _addresses
]
workers = _settings.web_concurrency
worker_class = "app.web.gunicorn_worker.DrainingWorker"
# Further connections wait in the backlog. Each needs a file, or accepting fails.
worker_connections = compute_max_connections(raise_max_files(), listeners=len(_addresses))
# A platform's router keeps connections for 90 s, and must be the first to close an idle one.
keepalive = 95
# A request that waits for a commit is answered before the platform kills the process, 30 s after SIGTERM.
graceful_timeout = 25
timeout = 60
worker_tmp_dir = str(_folder)
# Not used: no other process needs to control gunicorn while it runs.
control_socket_disable = True
# Otherwise a request through a proxy on this machine can set SCRIPT_NAME, which fails or changes its path.
forwarder_headers = ""


def on_starting(server: Any) -> None:
    """Load the modules that all workers share, and create the folder for their metrics."""
    if server.cfg.preload_app:
        # It connects and starts threads, which a fork does not copy.
        print(_NO_PRELOAD, file=sys.stderr)  # noqa: T201  # before any worker has started
        sys.exit(2)
    _load_modules()
    hold_stop_signals_in_forks()
    worker_slots.open(Path(worker_tmp_dir))


def _load_modules() -> None:
    """Load the application's modules, so that the workers share them: half the memory of each further one."""
    # Before the modules, which keep the functions that they import. The master needs the system's own `os`
    # and `signal` to wait for its workers: each worker patches these too, and gevent warns of that.
    monkey.patch_all(os=False, signal=False)
    warnings.filterwarnings("ignore", "Patching more than once")
    import app.web.application  # noqa: F401, PLC0415
    from app.database.engine import parse_url  # noqa: PLC0415

    parse_url(_settings.database_url).get_dialect().import_dbapi()
    # Loads the cipher, if a key is set.
    _settings.encryption_keys.encrypt(b"-", b"")


def pre_fork(_server: Any, worker: Any) -> None:
    """Give a worker the files of metrics that no other live one has."""
    worker_slots.assign(worker)
    # A garbage collection in the worker would write to all objects of the master, and so copy them.
    gc.freeze()


def child_exit(_server: Any, worker: Any) -> None:
    """Free the files of an ended worker for the next one."""
    worker_slots.release(worker)


def on_exit(_server: Any) -> None:
    """Remove the folder."""
    worker_slots.close()


def worker_exit(_arbiter: object, _worker: object) -> None:
    """Send the spans of the process that ends."""
    tracing.stop()
