"""Keeps what was verified: in the inbox, or in the spool while the inbox is away."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import gevent
import structlog
from gevent.lock import BoundedSemaphore

from app.errors import QueueUnavailable, StoreUnavailable
from app.redis.spool import Spool
from app.store.inbox import Inbox
from app.store.models import Arrival, Receipt
from app.web.group_commit import GroupCommit

_MOST_PER_COMMIT = 64
_MOST_BYTES_PER_COMMIT = 32 * 1024 * 1024
# Truto gives a page up within seconds, and waits for each: a store slower than this is as good as dead.
COMMIT_DEADLINE_S = 3.0
# While the store is away, one delivery this often tries it first; all others go to the spool at once.
_TRY_AGAIN_AFTER_S = 1.0
# A question may wait for a lock; however many are asked, commits must find a connection that is free.
_QUESTIONS_AT_ONCE = 2

Found = TypeVar("Found")

log = structlog.get_logger()


class Storage:
    """Commits arrivals in groups. Once that failed, it spools them until a commit succeeds again."""

    def __init__(self, inbox: Inbox, spool: Spool) -> None:
        self._inbox = inbox
        self._spool = spool
        self._commits: GroupCommit[Arrival, Receipt] = GroupCommit(
            self._commit,
            most=_MOST_PER_COMMIT,
            size_of=lambda arrival: len(arrival.body),
            most_size=_MOST_BYTES_PER_COMMIT,
        )
        self._questions = BoundedSemaphore(_QUESTIONS_AT_ONCE)
        self._is_away = False
        self._try_again_at = 0.0

    def put(self, arrival: Arrival) -> Receipt:
        """Return once the arrival is kept. Raises StoreUnavailable where neither place takes it."""
        if self._is_away and time.monotonic() < self._try_again_at:
            return self._put_in_spool(arrival)
        if self._is_away:
            self._try_again_at = time.monotonic() + COMMIT_DEADLINE_S + _TRY_AGAIN_AFTER_S
        try:
            receipt = self._commits.submit(arrival)
        except StoreUnavailable as error:
            self._note_away(error)
            return self._put_in_spool(arrival)
        if self._is_away:
            self._is_away = False
            log.info("store.back")
        return receipt

    def ask(self, question: Callable[[], Found]) -> Found:
        """Return what the store says; waits no longer than for a commit.

        question: asks it; may be called twice. Raises StoreUnavailable, at once while the store is away.
        """
        if self._is_away and time.monotonic() < self._try_again_at:
            raise StoreUnavailable("the store is away")
        return _in_time(lambda: self._ask_twice(question))

    def _ask_twice(self, question: Callable[[], Found]) -> Found:
        with self._questions:
            # A pooled connection that died while idle says nothing about the store.
            with suppress(StoreUnavailable):
                return question()
            return question()

    def _note_away(self, error: StoreUnavailable) -> None:
        self._try_again_at = time.monotonic() + _TRY_AGAIN_AFTER_S
        if not self._is_away:
            self._is_away = True
            log.error("store.away", error=str(error), then="deliveries go to the spool in Redis")

    def _put_in_spool(self, arrival: Arrival) -> Receipt:
        try:
            return self._spool.put(arrival)
        except QueueUnavailable as error:
            raise StoreUnavailable(f"the store is away, and {error}") from error

    def _commit(self, arrivals: Sequence[Arrival]) -> Sequence[Receipt]:
        return _in_time(lambda: self._inbox.put(arrivals))


def _in_time(act: Callable[[], Found]) -> Found:
    try:
        with gevent.Timeout(COMMIT_DEADLINE_S):
            return act()
    except gevent.Timeout as error:
        raise StoreUnavailable(f"the store did not answer within {COMMIT_DEADLINE_S:g} s") from error
