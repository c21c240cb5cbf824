"""A notifier that crashes: `python -m tests.support.crashing_notifier [STEP]`."""

import signal
import sys
import threading

from app.config.load import read_config
from app.database.engine import open_database
from app.logs import configure_logging
from app.store.notification_outbox import NotificationOutbox
from tests.support.crash_points import CrashPoint
from workers.background.notification_sender import NotificationDispatcher

if __name__ == "__main__":
    configure_logging("text")
    config = read_config()
    for step in sys.argv[1:]:
        CrashPoint(signal.SIGKILL).crash_before(NotificationOutbox, step)
    NotificationDispatcher(open_database(config.settings.database_url), config.routes.notify).start()
    threading.Event().wait()
