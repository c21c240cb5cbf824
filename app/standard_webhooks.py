"""Secrets and signatures of Standard Webhooks, for every message that the receiver sends. Pure.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

SECRET_ADVICE = 'create one with `echo "whsec_$(openssl rand -base64 32)"`'  # noqa: S105  # a hint

_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)


def check_signing_secret(secret: str) -> str:
    """Return a valid secret; raises ValueError with the next step, without the secret."""
    try:
        key_bytes = len(_decode_secret(secret))
    except ValueError:
        key_bytes = 0
    if not secret.startswith(_PREFIX) or key_bytes not in _KEY_BYTES:
        raise ValueError(f"not whsec_ followed by 24 to 64 bytes in base64; {SECRET_ADVICE}")
    return secret


def sign_message(secret: str, message_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Return the headers that identify and sign a body.

    secret: a valid one. message_id: the same for each repetition of a message. timestamp: of this sending, in
    seconds since 1970.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    mac = hmac.digest(_decode_secret(secret), signed, hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def _decode_secret(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
