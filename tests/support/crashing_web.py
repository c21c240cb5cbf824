"""The web application, but its process ends at a step of a group commit: `tests.support.crashing_web:app`.

DEADLY_STEP says where, DEADLY_SENDERS how many post at once. DEADLY_MARKER is the file that says that it has
happened: whoever is started later outlives it.
"""

import importlib
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from werkzeug.wsgi import ClosingIterator

from app.redis.queue import DeliveryQueue
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery, Receipt
from app.web.failover_inbox import FailoverInbox
from tests.support.crash_points import CrashPoint
from tests.support.waiting import wait_until

_sender_count = int(os.environ["DEADLY_SENDERS"])
_crash_point = CrashPoint(signal.SIGKILL, Path(os.environ["DEADLY_MARKER"]))
_groups: list[int] = []
_sent_responses: list[None] = []
_commit = FailoverInbox._commit


def _commit_groups(self: FailoverInbox, deliveries: Sequence[IncomingDelivery]) -> Sequence[Receipt]:
    """Commit, but let the first commit take until everybody else waits for the next."""
    if not (_groups or _crash_point.has_crashed):
        wait_until(lambda: len(deliveries) + self._commits.waiting == _sender_count, what="all senders")
    _groups.append(len(deliveries))
    return _commit(self, deliveries)


def _is_shared(*_: object) -> bool:
    return _groups[-1] > 1


def _wait_until_all_answered(*_: object) -> bool:
    if not _crash_point.has_crashed:
        wait_until(lambda: len(_sent_responses) == _sender_count, what="all senders to be answered")
    return True


def _crash_before_commit(crash_point: CrashPoint) -> None:
    # SQLAlchemy tells of it before the database does it. In SQLite the rows are there, and nobody sees them;
    # PostgreSQL commits with the statement that brings them.
    def before_statement(connection: Connection, *_: object) -> None:
        if connection.dialect.name == "postgresql" and _groups and _is_shared():
            crash_point.crash()

    event.listen(Engine, "before_cursor_execute", before_statement)
    event.listen(Engine, "commit", lambda _: crash_point.crash() if _groups and _is_shared() else None)


STEPS: Mapping[str, Callable[[CrashPoint], None]] = {
    "before the commit": _crash_before_commit,
    "after the commit": lambda death: death.crash_after(Inbox, "put", when=_is_shared),
    "after the answers": lambda death: death.crash_before(
        DeliveryQueue, "enqueue", when=_wait_until_all_answered
    ),
}

FailoverInbox._commit = _commit_groups  # type: ignore[method-assign]  # so that there is a group
STEPS[os.environ["DEADLY_STEP"]](_crash_point)
# Only now: it is built when it is imported.
_application = importlib.import_module("app.web.wsgi").app


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Serve a request; gunicorn closes an answer once it is sent."""
    answer: Iterable[bytes] = _application(environ, start_response)
    if environ["REQUEST_METHOD"] != "POST":
        return answer
    return ClosingIterator(answer, lambda: _sent_responses.append(None))
