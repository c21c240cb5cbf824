"""Writer of the counts of this process to the store, in the background."""

import threading
import time
from collections.abc import Callable

from app.logs import FaultLog
from app.web.failover_inbox import as_unavailable

_INTERVAL_S = 2.0


class CountsWriter:
    """A thread (a greenlet under gevent) that calls functions every two seconds.

    A killed process loses the counts of a few seconds. While the database is unavailable, they stay in
    memory.
    """

    def __init__(self, *writes: Callable[[], None]) -> None:
        self._writes = writes
        self._fault = FaultLog("responses.uncounted", "responses.counted")

    def start(self) -> None:
        """Start the thread; call this in the process that serves, after the fork."""
        threading.Thread(target=self._run, name="counts writer", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL_S)
            try:
                for write in self._writes:
                    write()
            except Exception as error:  # noqa: BLE001  # an ended thread would never write again
                self._fault.add(str(as_unavailable(error)))
            else:
                self._fault.end()
