"""What gunicorn serves."""

from app.config.load import read_config
from app.logs import configure_logging
from app.web.application import create_app

configure_logging()
_setup = read_config(required=("TRUTO_WEBHOOK_SECRET", "REDIS_URL"))
app = create_app(_setup.settings, _setup.routes)
