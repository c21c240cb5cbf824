"""Encryption of stored data with AES-256 under named keys.

Every value has a key of its own, derived from the named key and a random salt, so no nonce is ever used
twice. A value is bound to its context, such as the id of its delivery: moved to another row, it is damaged.
Sources: NIST SP 800-38D (GCM), SP 800-108 (key derivation), RFC 5297 (SIV).
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from app.errors import EncryptionKeyMissing

KEY_BYTES = 32
# The setting's entry that stores new data unencrypted, while keys behind it still decrypt.
OFF = "off"
# Compressed bodies begin with neither.
GCM_MARK, _SIV_MARK = b"RBE1", b"RBS1"
# The mark and the id have nine bytes together: twelve characters of base64, without a part of what follows.
_MARK_BYTES, _ID_BYTES, _SALT_BYTES, _TAG_BYTES = 4, 5, 16, 16
_NAME_CHARS = 12
_GCM_HEADER_BYTES = _MARK_BYTES + _ID_BYTES + _SALT_BYTES
# A large value is encrypted in segments, so that it can be read in parts. The nonce of a segment is its
# number and a flag for the last one: a segment that is missing, repeated or moved is noticed.
_SEGMENT_BYTES = 64 * 1024
_STORED_SEGMENT_BYTES = _SEGMENT_BYTES + _TAG_BYTES
_TEXT_MARK = "rapidbridge:"
ENCRYPTED_TEXT, _PLAIN_TEXT = _TEXT_MARK + "encrypted:", _TEXT_MARK + "plain:"


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A key of 32 bytes. id: 10 hex digits made of the key."""

    id: str
    secret: bytes = field(repr=False)

    @staticmethod
    def build(secret: bytes) -> "EncryptionKey":
        """Return a key with its id; raises ValueError for another length."""
        if len(secret) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        return EncryptionKey(_derive(secret, b"key id")[:_ID_BYTES].hex(), secret)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys of a process: the first one encrypts, all of them decrypt.

    is_off: no key encrypts. Methods that read raise EncryptionKeyMissing if the key of a
    value is not here, and ValueError if the value is damaged. context: what a value belongs to; reading needs
    the same.
    """

    keys: tuple[EncryptionKey, ...] = ()
    is_off: bool = False

    @property
    def current(self) -> EncryptionKey | None:
        """The key that encrypts; None to store new data unencrypted."""
        return self.keys[0] if self.keys and not self.is_off else None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of all keys."""
        return tuple(key.id for key in self.keys)

    def encrypt(self, plain: bytes, context: bytes) -> bytes:
        """Return a value encrypted with the current key; unchanged without one, or if it is empty."""
        if self.current is None or not plain:
            return plain
        salt = os.urandom(_SALT_BYTES)
        cipher = _open_cipher(self.current, salt)
        last = max(0, len(plain) - 1) // _SEGMENT_BYTES
        segments = (
            cipher.encrypt(
                _build_nonce(number, is_last=number == last),
                plain[number * _SEGMENT_BYTES : (number + 1) * _SEGMENT_BYTES],
                context,
            )
            for number in range(last + 1)
        )
        return b"".join((GCM_MARK, bytes.fromhex(self.current.id), salt, *segments))

    def decrypt(self, stored: bytes, context: bytes) -> bytes:
        """Return the original of a value; unchanged if it is not encrypted."""
        return b"".join(self.decrypt_parts([stored], context)) if is_encrypted(stored) else stored

    def decrypt_parts(self, stored: Iterable[bytes], context: bytes) -> Iterator[bytes]:
        """Yield the original of a value in parts, from its stored parts; unchanged if it is not encrypted."""
        parts = iter(stored)
        first = next(parts, b"")
        if not is_encrypted(first):
            if first:
                yield first
            yield from parts
            return
        cipher = _open_cipher(self._find_key(first), first[_MARK_BYTES + _ID_BYTES : _GCM_HEADER_BYTES])
        rest, number = bytearray(first[_GCM_HEADER_BYTES:]), 0
        for part in parts:
            rest += part
            # The last segment is known at the end only.
            while len(rest) > _STORED_SEGMENT_BYTES:
                segment = bytes(rest[:_STORED_SEGMENT_BYTES])
                del rest[:_STORED_SEGMENT_BYTES]
                yield _open_segment(cipher, segment, context, number, is_last=False)
                number += 1
        view = bytes(rest)
        starts = range(0, max(1, len(view)), _STORED_SEGMENT_BYTES)
        for start in starts:
            segment = view[start : start + _STORED_SEGMENT_BYTES]
            yield _open_segment(cipher, segment, context, number, is_last=start == starts[-1])
            number += 1

    def encrypt_text(self, plain: str, context: bytes) -> str:
        """Return a text encrypted with the current key, as text; unchanged without one, or if it is empty."""
        if self.current is None or not plain:
            return _mark_plain(plain)
        return _to_text(self.encrypt(plain.encode("utf-8", "surrogatepass"), context))

    def encrypt_label(self, plain: str, context: bytes) -> str:
        """Return a text encrypted so that equal texts stay equal, which a database can group by.

        It hides the text, but not that two values are equal.
        """
        if self.current is None or not plain:
            return _mark_plain(plain)
        cipher = _open_label_cipher(self.current)
        encrypted = cipher.encrypt(plain.encode("utf-8", "surrogatepass"), [context])
        return _to_text(_SIV_MARK + bytes.fromhex(self.current.id) + encrypted)

    def decrypt_text(self, stored: str, context: bytes) -> str:
        """Return the original of a text or label; unchanged if it is not encrypted."""
        if stored.startswith(_PLAIN_TEXT):
            return stored.removeprefix(_PLAIN_TEXT)
        if not stored.startswith(ENCRYPTED_TEXT):
            return stored
        value = _from_text(stored)
        if is_encrypted(value):
            return self.decrypt(value, context).decode("utf-8", "surrogatepass")
        if not value.startswith(_SIV_MARK):
            raise ValueError("the stored value is damaged")
        cipher = _open_label_cipher(self._find_key(stored))
        with _translate_damage():
            plain: bytes = cipher.decrypt(value[_MARK_BYTES + _ID_BYTES :], [context])
        return plain.decode("utf-8", "surrogatepass")

    @property
    def prefix(self) -> bytes:
        """The first bytes of every value that the current key encrypts."""
        return GCM_MARK + bytes.fromhex(self.current.id) if self.current else b""

    @property
    def text_prefixes(self) -> tuple[str, str]:
        """The first characters of every text, and of every label, that the current key encrypts."""
        key_id = bytes.fromhex(self.current.id) if self.current else b""
        return _to_text(GCM_MARK + key_id), _to_text(_SIV_MARK + key_id)

    def _find_key(self, stored: bytes | str) -> EncryptionKey:
        key_id = find_key_id(stored)
        for key in self.keys:
            if key.id == key_id:
                return key
        raise EncryptionKeyMissing(
            f"stored data is encrypted with the key {key_id}, which is not in ENCRYPTION_KEYS; add that key "
            "again, behind the others, and restart the process"
        )


def is_encrypted(stored: bytes) -> bool:
    """Whether a stored value is encrypted. stored: at least its first 40 bytes."""
    return stored.startswith(GCM_MARK) and len(stored) >= _GCM_HEADER_BYTES


def find_key_id(stored: bytes | str) -> str | None:
    """Return the id of the key of a stored value; None if it is not encrypted.

    stored: at least its first 40 bytes or characters.
    """
    if isinstance(stored, str):
        if not stored.startswith(ENCRYPTED_TEXT):
            return None
        stored = _from_text(stored[: len(ENCRYPTED_TEXT) + _NAME_CHARS])
    elif not is_encrypted(stored):
        return None
    return stored[_MARK_BYTES : _MARK_BYTES + _ID_BYTES].hex()


def _derive(secret: bytes, label: bytes) -> bytes:
    """Return 32 bytes derived from a key for one purpose: SP 800-108 in counter mode, one block."""
    return hmac.digest(secret, b"\x01rapidbridge\0" + label, hashlib.sha256)


def _build_nonce(number: int, *, is_last: bool) -> bytes:
    return number.to_bytes(11) + bytes([is_last])


def _open_cipher(key: EncryptionKey, salt: bytes) -> Any:
    # Imported here: a process without a key never loads it, which takes 80 ms and 6 MB.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    return AESGCM(_derive(key.secret, b"value\0" + salt))


def _open_label_cipher(key: EncryptionKey) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415  # see _open_cipher

    # SIV takes two keys of 32 bytes.
    return AESSIV(_derive(key.secret, b"label 1") + _derive(key.secret, b"label 2"))


def _open_segment(cipher: Any, segment: bytes, context: bytes, number: int, *, is_last: bool) -> bytes:
    with _translate_damage():
        plain: bytes = cipher.decrypt(_build_nonce(number, is_last=is_last), segment, context)
    return plain


@contextmanager
def _translate_damage() -> Iterator[None]:
    """Raise ValueError for a value that its key does not decrypt."""
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # see _open_cipher

    try:
        yield
    except (InvalidTag, ValueError) as error:
        raise ValueError("the stored value is damaged, or belongs to another row") from error


def _mark_plain(text: str) -> str:
    # A text of a customer may begin like an encrypted one.
    return _PLAIN_TEXT + text if text.startswith(_TEXT_MARK) else text


def _to_text(value: bytes) -> str:
    return ENCRYPTED_TEXT + base64.b64encode(value).decode()


def _from_text(text: str) -> bytes:
    try:
        return base64.b64decode(text.removeprefix(ENCRYPTED_TEXT), validate=True)
    except binascii.Error as error:
        raise ValueError("the stored value is damaged") from error
