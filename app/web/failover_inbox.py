"""Storage of deliveries in the inbox, or in the spool while the database fails."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import gevent
from gevent.lock import BoundedSemaphore

from app.errors import StoreUnavailable, TransientError
from app.logs import FaultLog, locate_error
from app.redis.spool import Spool
from app.store.inbox import Inbox
from app.store.models import IncomingDelivery, Receipt
from app.tracing import tracing
from app.web.group_commit import GroupCommit
from app.web.request_metrics import RequestMetrics

_MAX_DELIVERIES_PER_COMMIT = 64
_MAX_BYTES_PER_COMMIT = 32 * 1024 * 1024
# Truto drops a page within seconds: a slower database counts as unavailable.
COMMIT_TIMEOUT_S = 3.0
# While the database is unavailable, one delivery per interval tries it; all others are spooled.
_RETRY_INTERVAL_S = 1.0
# Queries may wait for locks: the limit leaves connections of the pool free for commits.
_MAX_CONCURRENT_QUERIES = 2

Result = TypeVar("Result")


class FailoverInbox:
    """Commits deliveries in groups; after a failed commit, spools them until a commit succeeds."""

    def __init__(self, inbox: Inbox, spool: Spool, metrics: RequestMetrics) -> None:
        self._inbox = inbox
        self._metrics = metrics
        self._spool = spool
        self._commits: GroupCommit[IncomingDelivery, Receipt] = GroupCommit(
            self._commit,
            max_items=_MAX_DELIVERIES_PER_COMMIT,
            size_of=lambda delivery: len(delivery.body),
            max_size=_MAX_BYTES_PER_COMMIT,
        )
        self._query_slots = BoundedSemaphore(_MAX_CONCURRENT_QUERIES)
        self._fault = FaultLog("store.unavailable", "store.recovered")
        self._retry_at = 0.0

    def store(self, delivery: IncomingDelivery) -> Receipt:
        """Store a delivery; raises StoreUnavailable if neither the database nor Redis can store it."""
        if self._fault and time.monotonic() < self._retry_at:
            return self._store_in_spool(delivery)
        if self._fault:
            self._retry_at = time.monotonic() + COMMIT_TIMEOUT_S + _RETRY_INTERVAL_S
        try:
            receipt = self._commits.submit(delivery)
        except Exception as error:  # noqa: BLE001  # no fault of the database may lose a delivery
            self._fail_over(as_unavailable(error))
            return self._store_in_spool(delivery)
        self._fault.end()
        return receipt

    def query(self, query: Callable[[], Result]) -> Result:
        """Return the result of a query of the store; the timeout is that of a commit.

        query: may be called twice; not called while the database is unavailable. Raises StoreUnavailable.
        """
        if self._fault and time.monotonic() < self._retry_at:
            raise StoreUnavailable("the database is unavailable; it is tried again within seconds")
        return _with_timeout(lambda: self._query_twice(query))

    def _query_twice(self, query: Callable[[], Result]) -> Result:
        with self._query_slots:
            # The first failure may come from a pooled connection that died while idle.
            with suppress(StoreUnavailable):
                return query()
            return query()

    def _fail_over(self, error: TransientError) -> None:
        self._retry_at = time.monotonic() + _RETRY_INTERVAL_S
        self._fault.add(str(error), level=logging.ERROR, then="deliveries go to the spool in Redis")

    def _store_in_spool(self, delivery: IncomingDelivery) -> Receipt:
        try:
            return self._spool.put(delivery)
        except Exception as error:
            raise StoreUnavailable(f"the database is unavailable, and {as_unavailable(error)}") from error

    def _commit(self, deliveries: Sequence[IncomingDelivery]) -> Sequence[Receipt]:
        # In the trace of the group's leader; the others are linked.
        links = [delivery.traceparent for delivery in deliveries if delivery.traceparent]
        with tracing.start_span("commit", links=links, deliveries=len(deliveries)):
            receipts = _with_timeout(lambda: self._inbox.put(deliveries))
        self._metrics.record_commit(deliveries)
        return receipts


def _with_timeout(operation: Callable[[], Result]) -> Result:
    try:
        with gevent.Timeout(COMMIT_TIMEOUT_S):
            return operation()
    except gevent.Timeout as error:
        raise StoreUnavailable(f"the database did not answer within {COMMIT_TIMEOUT_S:g} s") from error
    except Exception as error:
        raise as_unavailable(error) from error


def as_unavailable(error: Exception) -> TransientError:
    """Return an error of the store's unchanged, and any other one with its type and place only."""
    if isinstance(error, TransientError):
        return error
    # The message may quote the delivery.
    return StoreUnavailable(
        f"the store failed with {type(error).__name__} at {locate_error(error)}; report this as a bug"
    )
