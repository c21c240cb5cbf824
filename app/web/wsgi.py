"""The WSGI application that gunicorn serves, built from the environment."""

import sys

from app.config.load import read_config
from app.config.settings import read_otel_variables
from app.config.summary import log_start
from app.config.version import VERSION
from app.errors import ConfigError
from app.logs import configure_logging
from app.tracing import tracing
from app.web.application import create_app

# gunicorn's code for a worker that fails to boot: gunicorn ends instead of starting the next one.
_BOOT_ERROR = 3

config = read_config(required=("TRUTO_WEBHOOK_SECRET", "REDIS_URL"))
configure_logging(config.settings.log_format)
# Here, in the process that serves: a fork would end the thread that exports.
tracing.start("web", read_otel_variables(), version=VERSION)
try:
    app = create_app(config)
except ConfigError as error:
    print(*error.problems, sep="\n", file=sys.stderr)  # noqa: T201  # an entry point
    sys.exit(_BOOT_ERROR)
log_start("web", config)
