"""The WSGI application that gunicorn serves, built from the environment."""

from app.config.load import read_config
from app.config.settings import read_otel_variables
from app.config.summary import log_start
from app.config.version import VERSION
from app.logs import configure_logging
from app.tracing import tracing
from app.web.application import create_app

config = read_config(required=("TRUTO_WEBHOOK_SECRET", "REDIS_URL"))
configure_logging(config.settings.log_format)
# Here, in the process that serves: a fork would end the thread that exports.
tracing.start("web", read_otel_variables(), version=VERSION)
app = create_app(config)
log_start("web", config)
