"""POST /webhooks/truto: verify, read the envelope, store, answer."""

from datetime import UTC, datetime

import structlog

from app.config.settings import Settings
from app.errors import SignatureError, UnreadableDelivery
from app.runs.gate import Gate
from app.store.models import DeliveryState, IncomingDelivery, Receipt
from app.truto.events import read_envelope
from app.truto.signature import Signature, verify
from app.web.enqueuer import Enqueuer
from app.web.failover_inbox import FailoverInbox
from app.web.responses import WebhookResponse

log = structlog.get_logger()


class WebhookHandler:
    """Takes a body from bytes to a stored delivery, and says how it was answered."""

    def __init__(self, settings: Settings, gate: Gate, inbox: FailoverInbox, enqueuer: Enqueuer) -> None:
        self._settings = settings
        self._gate = gate
        self._inbox = inbox
        self._enqueuer = enqueuer

    def receive(self, body: bytes, mac: bytes) -> WebhookResponse:
        """Store a body that Truto signed.

        mac: the signature that its header claims, 32 bytes. Raises SignatureError; StoreUnavailable if
        neither the database nor Redis can store it.
        """
        signature = verify(body, mac, self._settings.secret_values)
        arrival = self._read_delivery(body, signature, received_at=datetime.now(UTC))
        receipt = self._inbox.store(arrival)
        # A spooled delivery is not in the inbox yet: the sweeper enqueues it after it drained the spool.
        if arrival.state == DeliveryState.PENDING and not receipt.is_duplicate and not receipt.is_spooled:
            self._enqueuer.enqueue(receipt.delivery_id)
        answer = _answer(arrival, receipt)
        log.info(
            "delivery." + answer.status,
            delivery=answer.delivery,
            truto_event=arrival.envelope.event,
            run=arrival.envelope.sync_job_run_id,
            resource=arrival.envelope.resource,
            bytes=len(body),
            **({"spooled": True} if receipt.is_spooled else {}),
            **({"reason": answer.message} if answer.message else {}),
        )
        return answer

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
            # Of the bytes and the secret, which Truto never changes for a webhook: hashing again is not free.
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
            raise SignatureError("signed with a secret that TRUTO_WEBHOOK_SECRET pins to another webhook")
        window_s = self._settings.replay_window_s
        if window_s and (created_at is None or abs((received_at - created_at).total_seconds()) > window_s):
            raise SignatureError(f"signed, but not within the last {window_s} s (REPLAY_WINDOW_S)")


def _answer(arrival: IncomingDelivery, receipt: Receipt) -> WebhookResponse:
    delivery = str(receipt.delivery_id)
    if receipt.refusal_reason is not None:
        # Truto reads a 400 to `started` as "stop this run"; nothing else here is ever answered with 400.
        # As it was first decided: Truto repeats what it got no answer to, or got a 400 to.
        return WebhookResponse(400, "refused", delivery, receipt.refusal_reason)
    if receipt.is_duplicate:
        return WebhookResponse(200, "duplicate", delivery)
    if arrival.state == DeliveryState.QUARANTINED:
        return WebhookResponse(200, "quarantined", delivery, arrival.reason)
    return WebhookResponse(200, "accepted", delivery)
