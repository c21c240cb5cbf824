"""Handling of Truto's POSTs: verify, read the envelope, store, respond."""

import time
from collections.abc import Callable
from dataclasses import replace
from wsgiref.types import WSGIEnvironment

import structlog

from app.clock import utc_now
from app.config.settings import Settings
from app.runs.gate import Gate
from app.store.incoming import read_incoming
from app.store.models import DeliveryState, IncomingDelivery, Receipt
from app.tracing import Span, tracing
from app.web.arrival_recorder import ArrivalRecorder
from app.web.enqueuer import Enqueuer, NewDelivery
from app.web.failover_inbox import FailoverInbox
from app.web.pauses import Pauses
from app.web.probe_observer import ProbeObserver
from app.web.responses import WebhookResponse, WebhookStatus

_REJECTED_ONCE = "stored, and rejected once for rapidbridge webhook probe"

log = structlog.get_logger()


class WebhookHandler:
    """Turns signed bodies into stored deliveries and responses."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        inbox: FailoverInbox,
        enqueuer: Enqueuer,
        arrivals: ArrivalRecorder,
        *,
        observer: ProbeObserver,
    ) -> None:
        self._settings = settings
        self._gate = gate
        self._inbox = inbox
        self._enqueuer = enqueuer
        self._arrivals = arrivals
        self._observer = observer

    def receive(
        self,
        body: bytes,
        mac: bytes,
        on_verified: Callable[[], None],
        *,
        began_s: float,
        environ: WSGIEnvironment,
    ) -> WebhookResponse:
        """Store a body that Truto signed.

        mac: the 32 bytes of the signature header. on_verified: called before the body is stored. began_s: on
        the monotonic clock, the time before the body was read. environ: of the request. Raises
        SignatureError; StoreUnavailable if neither the database nor Redis can store the body.
        """
        received_at = utc_now()
        with Pauses() as pause:
            delivery = read_incoming(body, mac, received_at, origin=self._settings, pause=pause)
            on_verified()
            refusal = self._gate.find_refusal_reason(delivery.envelope, body, received_at, pause)
        if refusal is not None:
            delivery = replace(delivery, state=DeliveryState.REFUSED, reason=refusal)
        # Not before: an unsigned client must not add to a trace.
        traceparent = environ.get("HTTP_TRACEPARENT", "")
        with tracing.start_span("accept", kind="server", parent=traceparent, began_at=received_at) as span:
            response = self._store(delivery, span)
        self._arrivals.record(
            delivery.envelope.webhook_id,
            received_at,
            duration_s=time.monotonic() - began_s,
            body_bytes=len(body),
        )
        if self._observer.observe(delivery, environ):
            log.info("delivery.rejected_once", delivery=response.delivery)
            return WebhookResponse.build(WebhookStatus.REJECTED_ONCE, response.delivery, _REJECTED_ONCE)
        return response

    def _store(self, delivery: IncomingDelivery, span: Span) -> WebhookResponse:
        if span.traceparent:
            delivery = replace(delivery, traceparent=span.traceparent)
        is_due = self._enqueuer.must_leave
        receipt = self._inbox.store(replace(delivery, is_due=is_due) if is_due else delivery)
        # The feeder enqueues a spooled delivery once the sweeper has moved it to the inbox.
        if delivery.state == DeliveryState.PENDING and not receipt.is_duplicate and not receipt.is_spooled:
            self._enqueuer.enqueue(NewDelivery(receipt.delivery_id, len(delivery.body), is_due=is_due))
        response = _build_response(delivery, receipt)
        span.set(
            delivery=response.delivery,
            status=response.status,
            run=delivery.envelope.sync_job_run_id,
            bytes=len(delivery.body),
        )
        log.info(
            "delivery." + response.status,
            delivery=response.delivery,
            truto_event=delivery.envelope.event,
            run=delivery.envelope.sync_job_run_id,
            resource=delivery.envelope.resource,
            bytes=len(delivery.body),
            **({"spooled": True} if receipt.is_spooled else {}),
            **({"reason": response.message} if response.message else {}),
        )
        return response


def _build_response(delivery: IncomingDelivery, receipt: Receipt) -> WebhookResponse:
    delivery_id = str(receipt.delivery_id)
    if receipt.refusal_reason is not None:
        # A repeated event gets the first decision again.
        return WebhookResponse.build(WebhookStatus.REFUSED, delivery_id, receipt.refusal_reason)
    if receipt.is_duplicate:
        return WebhookResponse.build(WebhookStatus.DUPLICATE, delivery_id)
    if delivery.state == DeliveryState.QUARANTINED:
        return WebhookResponse.build(WebhookStatus.QUARANTINED, delivery_id, delivery.reason)
    return WebhookResponse.build(WebhookStatus.ACCEPTED, delivery_id)
