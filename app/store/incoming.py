"""Verified deliveries, made of a body and its signature."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from app.encryption import Keyring
from app.errors import SignatureError, SignatureFault, UnreadableDelivery
from app.store.models import DeliveryState, IncomingDelivery
from app.truto.events import Envelope, read_envelope
from app.truto.json_scanner import Pause, no_pause
from app.truto.signature import verify


class OriginRules(Protocol):
    """The settings that decide whether a body comes from Truto."""

    @property
    def secret_values(self) -> Sequence[str]: ...
    @property
    def max_body_bytes(self) -> int: ...
    @property
    def replay_window_s(self) -> int: ...
    @property
    def encryption_keys(self) -> Keyring: ...
    def may_sign(self, secret: str, webhook_id: str) -> bool: ...


def read_incoming(
    body: bytes, mac: bytes, received_at: datetime, *, origin: OriginRules, pause: Pause = no_pause
) -> IncomingDelivery:
    """Return the delivery of a body that Truto signed; it is quarantined if the body is unreadable.

    mac: the 32 bytes of the signature header. pause: called every few milliseconds while a large body is
    read. Raises SignatureError.
    """
    signature = verify(body, mac, origin.secret_values, pause)
    try:
        envelope = read_envelope(body, pause)
    except UnreadableDelivery as error:
        return IncomingDelivery(body, mac, received_at, state=DeliveryState.QUARANTINED, reason=error.reason)
    _check_origin(origin, signature.secret, envelope, received_at)
    # The MAC serves as the digest, which saves hashing: Truto never changes a webhook's secret.
    return IncomingDelivery(body, mac, received_at, envelope)


def _check_origin(origin: OriginRules, secret: str, envelope: Envelope, received_at: datetime) -> None:
    """Refuse a body that names another webhook or another time; keep one that names none."""
    if not origin.may_sign(secret, envelope.webhook_id):
        message = "signed with a secret that TRUTO_WEBHOOK_SECRET pins to another webhook"
        raise SignatureError(message, SignatureFault.OTHER_WEBHOOK)
    window_s, created_at = origin.replay_window_s, envelope.created_at
    if window_s and created_at and abs((received_at - created_at).total_seconds()) > window_s:
        message = f"signed, but not within the last {window_s} s (REPLAY_WINDOW_S)"
        raise SignatureError(message, SignatureFault.OUTSIDE_WINDOW)
