"""Handling of Truto's POSTs: verify, read the envelope, store, respond."""

from datetime import datetime

import structlog

from app.clock import utc_now
from app.config.settings import Settings
from app.errors import SignatureError, SignatureFault, UnreadableDelivery
from app.runs.gate import Gate
from app.store.models import DeliveryState, IncomingDelivery, Receipt
from app.truto.events import read_envelope
from app.truto.signature import Signature, verify
from app.web.enqueuer import Enqueuer
from app.web.failover_inbox import FailoverInbox
from app.web.responses import WebhookResponse

log = structlog.get_logger()


class WebhookHandler:
    """Turns signed bodies into stored deliveries and responses."""

    def __init__(self, settings: Settings, gate: Gate, inbox: FailoverInbox, enqueuer: Enqueuer) -> None:
        self._settings = settings
        self._gate = gate
        self._inbox = inbox
        self._enqueuer = enqueuer

    def receive(self, body: bytes, mac: bytes) -> WebhookResponse:
        """Store a body that Truto signed.

        mac: the 32 bytes of the signature header. Raises SignatureError; StoreUnavailable if
        neither the database nor Redis can store it.
        """
        signature = verify(body, mac, self._settings.secret_values)
        delivery = self._read_delivery(body, signature, received_at=utc_now())
        receipt = self._inbox.store(delivery)
        # The sweeper enqueues a spooled delivery after it has moved it to the inbox.
        if delivery.state == DeliveryState.PENDING and not receipt.is_duplicate and not receipt.is_spooled:
            self._enqueuer.enqueue(receipt.delivery_id)
        response = _build_response(delivery, receipt)
        log.info(
            "delivery." + response.status,
            delivery=response.delivery,
            truto_event=delivery.envelope.event,
            run=delivery.envelope.sync_job_run_id,
            resource=delivery.envelope.resource,
            bytes=len(body),
            **({"spooled": True} if receipt.is_spooled else {}),
            **({"reason": response.message} if response.message else {}),
        )
        return response

    def _read_delivery(self, body: bytes, signature: Signature, *, received_at: datetime) -> IncomingDelivery:
        try:
            envelope = read_envelope(body)
        except UnreadableDelivery as error:
            self._check_origin(signature.secret, "", None, received_at)
            return IncomingDelivery(
                body, signature.mac, received_at, state=DeliveryState.QUARANTINED, reason=error.reason
            )
        self._check_origin(signature.secret, envelope.webhook_id, envelope.created_at, received_at)
        refusal = self._gate.find_refusal_reason(envelope, body, received_at)
        return IncomingDelivery(
            body=body,
            # The MAC serves as the digest, which saves hashing: Truto never changes a webhook's secret.
            digest=signature.mac,
            received_at=received_at,
            envelope=envelope,
            state=DeliveryState.PENDING if refusal is None else DeliveryState.REFUSED,
            reason=refusal or "",
        )

    def _check_origin(
        self, secret: str, webhook_id: str, created_at: datetime | None, received_at: datetime
    ) -> None:
        if not self._settings.may_sign(secret, webhook_id):
            message = "signed with a secret that TRUTO_WEBHOOK_SECRET pins to another webhook"
            raise SignatureError(message, SignatureFault.OTHER_WEBHOOK)
        window_s = self._settings.replay_window_s
        if window_s and (created_at is None or abs((received_at - created_at).total_seconds()) > window_s):
            message = f"signed, but not within the last {window_s} s (REPLAY_WINDOW_S)"
            raise SignatureError(message, SignatureFault.OUTSIDE_WINDOW)


def _build_response(delivery: IncomingDelivery, receipt: Receipt) -> WebhookResponse:
    delivery_id = str(receipt.delivery_id)
    if receipt.refusal_reason is not None:
        # Truto stops a run if `started` gets a 400, so no other case may respond with 400. A repeated event
        # gets the first decision again.
        return WebhookResponse(400, "refused", delivery_id, receipt.refusal_reason)
    if receipt.is_duplicate:
        return WebhookResponse(200, "duplicate", delivery_id)
    if delivery.state == DeliveryState.QUARANTINED:
        return WebhookResponse(200, "quarantined", delivery_id, delivery.reason)
    return WebhookResponse(200, "accepted", delivery_id)
