"""What gunicorn serves."""

from app.config.load import read_setup
from app.logs import set_up_logs
from app.web.application import create_app

set_up_logs()
_setup = read_setup(needs=("TRUTO_WEBHOOK_SECRET", "REDIS_URL"))
app = create_app(_setup.settings, _setup.routes)
