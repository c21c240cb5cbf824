"""The WSGI application that gunicorn serves, built from the environment."""

from app.config.load import read_config
from app.logs import configure_logging
from app.web.application import create_app

configure_logging()
app = create_app(read_config(required=("TRUTO_WEBHOOK_SECRET", "REDIS_URL")))
