"""A web application that is killed at a step of a group commit: `tests.support.crashing_web:app`.

CRASH_STEP: the step. CRASH_SENDERS: the number of parallel senders. CRASH_MARKER: a file that is created at the
crash; processes started later do not crash.
"""

import importlib
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, event
from werkzeug.wsgi import ClosingIterator

from app.redis.queue import DeliveryQueue
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery, Receipt
from app.web.failover_inbox import FailoverInbox
from tests.support.crash_points import CrashPoint
from tests.support.waiting import wait_until

_sender_count = int(os.environ["CRASH_SENDERS"])
_crash_point = CrashPoint(signal.SIGKILL, Path(os.environ["CRASH_MARKER"]))
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
    def is_group(*_: object) -> bool:
        return bool(_groups) and _is_shared()

    # PostgreSQL commits with the statement that inserts a group. SQLAlchemy's event comes before SQLite
    # commits: it has the rows by then, but not visibly.
    crash_point.crash_before(psycopg.Connection, "execute", when=is_group)
    event.listen(Engine, "commit", lambda _: crash_point.crash() if is_group() else None)


STEPS: Mapping[str, Callable[[CrashPoint], None]] = {
    "before the commit": _crash_before_commit,
    "after the commit": lambda point: point.crash_after(Inbox, "put", when=_is_shared),
    "after the answers": lambda point: point.crash_before(
        DeliveryQueue, "enqueue", when=_wait_until_all_answered
    ),
}

FailoverInbox._commit = _commit_groups  # type: ignore[method-assign]  # makes a group of several
STEPS[os.environ["CRASH_STEP"]](_crash_point)
# Imported last, because the import builds the application.
_application = importlib.import_module("app.web.wsgi").app


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Serve a request, and count its answer when gunicorn has sent and closed it."""
    answer: Iterable[bytes] = _application(environ, start_response)
    if environ["REQUEST_METHOD"] != "POST":
        return answer
    return ClosingIterator(answer, lambda: _sent_responses.append(None))
