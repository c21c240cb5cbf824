"""Truto's webhook signature: creation, parsing and verification."""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from app.errors import SignatureError, SignatureFault

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{43}=?")
_STANDARD_ALPHABET = str.maketrans("-_", "+/")
_MAX_HEADER_CHARS = 512
_STEP_BYTES = 1024 * 1024


# The encodings of a MAC that are accepted. Two of base64 are the same for a MAC without "+" and "/".
Encoding = Literal["hex", "base64", "base64-unpadded", "base64url", "base64url-unpadded"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)


def sign(body: bytes, secret: str, *, encoding: Encoding = "hex", with_format: bool = True) -> str:
    """Return the X-Truto-Signature header of a body. Truto itself sends base64."""
    text = _encode_mac(_compute_mac(body, secret), encoding)
    return f"format=sha256,v={text}" if with_format else f"v={text}"


def find_encoding(header: str, mac: bytes) -> Encoding:
    """Return the encoding of a valid header's MAC. mac: as `parse_signature_header` returns it."""
    text = next(part.strip()[2:].strip() for part in header.split(",") if part.strip().startswith("v="))
    return next((encoding for encoding in ENCODINGS if _encode_mac(mac, encoding) == text), "hex")


def parse_signature_header(header: str | None) -> bytes:
    """Return the MAC (32 bytes) in a header.

    header: "format=sha256,v=<mac>", `format` optional. mac: 64 hex digits, or base64 in the standard or the
    URL-safe alphabet: 44 characters, or 43 without padding.
    Raises SignatureError, which says why the header is invalid.
    """
    if not header:
        raise SignatureError("the X-Truto-Signature header is missing", SignatureFault.MISSING)
    if len(header) > _MAX_HEADER_CHARS:
        raise SignatureError(f"the X-Truto-Signature header is longer than {_MAX_HEADER_CHARS} characters")
    parts: dict[str, str] = {}
    for part in header.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name in parts:
            raise SignatureError("the X-Truto-Signature header is malformed; expected format=sha256,v=<mac>")
        parts[name] = value.strip()
    if parts.get("format", "sha256") != "sha256":
        raise SignatureError("the X-Truto-Signature header has a format other than sha256")
    return _decode_mac(parts.get("v", ""))


@dataclass(frozen=True, slots=True)
class Signature:
    """A valid signature: its MAC (32 bytes), and the secret that made it."""

    mac: bytes
    secret: str = field(repr=False)


def verify(
    body: bytes, mac: bytes, secrets: Sequence[str], pause: Callable[[], None] = lambda: None
) -> Signature:
    """Accept a body only if Truto signed it with one of the secrets.

    body: raw bytes exactly as received. mac: 32 bytes; see `parse_signature_header`. pause: called every few
    milliseconds for a large body. Raises SignatureError. Constant time in the secrets.
    Source: docs/protocol.md, "Signature".
    """
    matched = None
    # Try every secret, so that the time taken does not reveal the matching one.
    for secret in secrets:
        if hmac.compare_digest(_compute_mac(body, secret, pause), mac):
            matched = Signature(mac, secret)
    if matched is None:
        message = "the signature matches no secret in TRUTO_WEBHOOK_SECRET"
        raise SignatureError(message, SignatureFault.WRONG)
    return matched


def _encode_mac(mac: bytes, encoding: Encoding) -> str:
    if encoding == "hex":
        return mac.hex()
    text = (base64.urlsafe_b64encode if "url" in encoding else base64.b64encode)(mac).decode()
    return text.rstrip("=") if encoding.endswith("unpadded") else text


def _compute_mac(body: bytes, secret: str, pause: Callable[[], None] = lambda: None) -> bytes:
    if len(body) <= _STEP_BYTES:
        return hmac.digest(secret.encode(), body, hashlib.sha256)
    mac = hmac.new(secret.encode(), digestmod=hashlib.sha256)
    for start in range(0, len(body), _STEP_BYTES):
        mac.update(memoryview(body)[start : start + _STEP_BYTES])
        pause()
    return mac.digest()


def _decode_mac(text: str) -> bytes:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if _BASE64.fullmatch(text):
        return base64.b64decode(text[:43].translate(_STANDARD_ALPHABET) + "=")
    raise SignatureError("v in the X-Truto-Signature header is neither 64 hex digits nor base64 of 32 bytes")
