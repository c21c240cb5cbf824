"""Verified deliveries, made of a body and its signature."""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from app.errors import SignatureError, UnreadableDelivery
from app.store.models import DeliveryState, IncomingDelivery
from app.truto.events import read_envelope
from app.truto.signature import verify


class OriginRules(Protocol):
    """The settings that decide whether a body comes from Truto."""

    @property
    def secret_values(self) -> Sequence[str]: ...
    @property
    def max_body_bytes(self) -> int: ...
    @property
    def replay_window_s(self) -> int: ...
    def may_sign(self, secret: str, webhook_id: str) -> bool: ...


def read_incoming(body: bytes, mac: bytes, received_at: datetime, *, origin: OriginRules) -> IncomingDelivery:
    """Return the delivery of a body that Truto signed; it is quarantined if the body is unreadable.

    mac: the 32 bytes of the signature header. Raises SignatureError.
    """
    signature = verify(body, mac, origin.secret_values)
    try:
        envelope = read_envelope(body)
    except UnreadableDelivery as error:
        _check_origin(origin, signature.secret, "", None, received_at)
        return IncomingDelivery(body, mac, received_at, state=DeliveryState.QUARANTINED, reason=error.reason)
    _check_origin(origin, signature.secret, envelope.webhook_id, envelope.created_at, received_at)
    # The MAC serves as the digest, which saves hashing: Truto never changes a webhook's secret.
    return IncomingDelivery(body, mac, received_at, envelope)


def _check_origin(
    origin: OriginRules, secret: str, webhook_id: str, created_at: datetime | None, received_at: datetime
) -> None:
    if not origin.may_sign(secret, webhook_id):
        raise SignatureError("signed with a secret that TRUTO_WEBHOOK_SECRET pins to another webhook")
    window_s = origin.replay_window_s
    if window_s and (created_at is None or abs((received_at - created_at).total_seconds()) > window_s):
        raise SignatureError(f"signed, but not within the last {window_s} s (REPLAY_WINDOW_S)")
