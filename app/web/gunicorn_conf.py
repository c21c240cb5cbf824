"""gunicorn's settings: `gunicorn --config app/web/gunicorn_conf.py app.web.wsgi:app`."""

import sys

from app.config.load import read_config
from app.errors import ConfigError

try:
    _settings = read_config(required=("TRUTO_WEBHOOK_SECRET", "REDIS_URL")).settings
except ConfigError as _error:
    print(*_error.problems, sep="\n", file=sys.stderr)  # noqa: T201  # before any log is set up
    sys.exit(2)

bind = f"0.0.0.0:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "app.web.gunicorn_worker.DrainingWorker"
# A stalled sender costs little memory; further connections wait in the listener's backlog.
worker_connections = 256
# A platform's router keeps connections for 90 s, and must be the first to close an idle one.
keepalive = 95
# A request that waits for a commit is answered before the platform kills the process, 30 s after SIGTERM.
graceful_timeout = 25
timeout = 60
# A heartbeat file on a disk can block a worker for seconds.
worker_tmp_dir = "/dev/shm" if sys.platform == "linux" else None  # noqa: S108
# Not used: no other process needs to control gunicorn while it runs.
control_socket_disable = True
