"""A notifier alone, set up by the environment: `python -m tests.support.crashing_notifier [STEP]`, to end at a step."""

import signal
import sys
import threading

from app.config.load import read_setup
from app.database.engine import open_store
from app.logs import set_up_logs
from app.store.notification_outbox import Outbox
from tests.support.crash_points import Death
from workers.background.notification_sender import Notifier

if __name__ == "__main__":
    set_up_logs()
    setup = read_setup()
    for step in sys.argv[1:]:
        Death(signal.SIGKILL).before(Outbox, step)
    Notifier(open_store(setup.settings.database_url), setup.routes.notify).start()
    threading.Event().wait()
