"""Observation of `test` events for `rapidbridge webhook probe`."""

from contextlib import suppress
from wsgiref.types import WSGIEnvironment

import gevent

from app.errors import QueueUnavailable
from app.redis.observed_tests import TEST_EVENT, ObservedTest, ObservedTests, digest_text
from app.store.models import IncomingDelivery
from app.truto.signature import find_encoding, parse_signature_header

# Of all requests of one event to Redis. No delivery but a `test` event waits for them.
_TIMEOUT_S = 1.0
_MAX_CONTENT_TYPE_CHARS = 100


class ProbeObserver:
    """Notes the headers of stored `test` events while a probe of their webhook runs."""

    def __init__(self, observed: ObservedTests) -> None:
        self._observed = observed

    def observe(self, delivery: IncomingDelivery, environ: WSGIEnvironment) -> bool:
        """Return whether a probe wants the request rejected; False for every event but `test`.

        delivery: stored. Without Redis nothing is observed.
        """
        envelope = delivery.envelope
        if envelope.event != TEST_EVENT:
            return False
        with suppress(QueueUnavailable), gevent.Timeout(_TIMEOUT_S, False):
            if not self._observed.observes(envelope.webhook_id):
                return False
            is_rejected = self._observed.take_rejection()
            self._observed.add(_read_request(delivery, environ, is_rejected=is_rejected))
            return is_rejected
        return False


def _read_request(delivery: IncomingDelivery, environ: WSGIEnvironment, *, is_rejected: bool) -> ObservedTest:
    header = environ.get("HTTP_X_TRUTO_SIGNATURE", "")
    return ObservedTest(
        encoding=find_encoding(header, parse_signature_header(header)),
        has_format="format=" in header,
        content_type=environ.get("CONTENT_TYPE", "")[:_MAX_CONTENT_TYPE_CHARS].partition(";")[0].strip(),
        event_digest=digest_text(delivery.envelope.event_id),
        body_digest=digest_text(delivery.body),
        at_s=delivery.received_at.timestamp(),
        is_rejected=is_rejected,
    )
