"""POST /webhooks/truto: verify, read the envelope, store, answer."""

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from app.config.settings import Settings
from app.errors import SignatureError, UnreadableDelivery
from app.store.models import Arrival, Receipt
from app.truto.events import Envelope, read_envelope
from app.truto.signature import Signature, verify
from app.web.responses import Answer

log = structlog.get_logger()


class Receiver:
    """Takes one body at a time from being bytes to being stored.

    refuse: says why a run is not to start, of the event that it starts. put: keeps an arrival and returns its
    receipt. wake: has a worker woken for a delivery.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        refuse: Callable[[Envelope, bytes, datetime], str | None],
        put: Callable[[Arrival], Receipt],
        wake: Callable[[Receipt], None],
    ) -> None:
        self._settings = settings
        self._refuse = refuse
        self._put = put
        self._wake = wake

    def receive(self, body: bytes, header: str | None) -> Answer:
        """Store what Truto signed and say what became of it.

        Raises SignatureError, and StoreUnavailable where there is nowhere to store it.
        """
        signature = verify(body, header, self._settings.secret_values)
        arrival = self._look_at(body, signature, received_at=datetime.now(UTC))
        receipt = self._put(arrival)
        # What is spooled is not in the inbox yet: whoever drains it wakes a worker.
        if arrival.state == "pending" and not receipt.is_duplicate and not receipt.is_spooled:
            self._wake(receipt)
        answer = _answer(arrival, receipt)
        log.info(
            "delivery." + answer.status,
            delivery=answer.delivery,
            truto_event=arrival.event,
            run=arrival.sync_job_run_id,
            resource=arrival.resource,
            bytes=len(body),
            **({"spooled": True} if receipt.is_spooled else {}),
            **({"reason": answer.message} if answer.message else {}),
        )
        return answer

    def _look_at(self, body: bytes, signature: Signature, *, received_at: datetime) -> Arrival:
        try:
            envelope = read_envelope(body)
        except UnreadableDelivery as error:
            self._check_origin(signature.secret, "", None, received_at)
            return Arrival(body, signature.mac, received_at, "quarantined", error.reason)
        self._check_origin(signature.secret, envelope.webhook_id, envelope.created_at, received_at)
        refusal = self._refuse(envelope, body, received_at)
        return Arrival(
            body=body,
            # Of the bytes and the secret, which Truto never changes for a webhook: hashing again is not free.
            digest=signature.mac,
            received_at=received_at,
            state="pending" if refusal is None else "refused",
            reason=refusal or "",
            event_id=envelope.event_id,
            event=envelope.event,
            webhook_id=envelope.webhook_id,
            environment_id=envelope.environment_id,
            sync_job_id=envelope.sync_job_id,
            sync_job_run_id=envelope.sync_job_run_id,
            integrated_account_id=envelope.integrated_account_id,
            resource=envelope.resource,
            method=envelope.method,
            created_at=envelope.created_at,
        )

    def _check_origin(
        self, secret: str, webhook_id: str, created_at: datetime | None, received_at: datetime
    ) -> None:
        if not self._settings.may_sign(secret, webhook_id):
            raise SignatureError("signed with a secret that TRUTO_WEBHOOK_SECRET pins to another webhook")
        window_s = self._settings.replay_window_s
        if window_s and (created_at is None or abs((received_at - created_at).total_seconds()) > window_s):
            raise SignatureError(f"signed, but not within the last {window_s} s (REPLAY_WINDOW_S)")


def _answer(arrival: Arrival, receipt: Receipt) -> Answer:
    delivery = str(receipt.delivery_id)
    if receipt.refused is not None:
        # Truto reads a 400 to `started` as "stop this run"; nothing else here is ever answered with 400.
        # As it was first decided: Truto repeats what it got no answer to, or got a 400 to.
        return Answer(400, "refused", delivery, receipt.refused)
    if receipt.is_duplicate:
        return Answer(200, "duplicate", delivery)
    if arrival.state == "quarantined":
        return Answer(200, "quarantined", delivery, arrival.reason)
    return Answer(200, "accepted", delivery)
