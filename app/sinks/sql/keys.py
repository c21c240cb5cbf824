"""Keys of records: the id as text, or a hash; pure."""

import hashlib
import json
from typing import Any

import msgspec

# An index of PostgreSQL takes keys of up to 2,712 bytes; account and key share one.
_MAX_KEY_BYTES = 512


_encode = msgspec.json.Encoder().encode


def to_json(value: Any) -> str:
    """Return a value, read from JSON, as JSON that databases accept.

    Six times as fast as `json`. Raises ValueError or RecursionError for a value that cannot be written.
    """
    return _encode(value).decode()


def _encode_canonical(value: Any) -> str:
    """Return JSON whose text never changes between releases: keys are made from it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


def extract_key(record: dict[str, Any], name: str) -> str | None:
    """Return a record's key, or None.

    None: the key is missing, null, empty, a boolean, a list or an object. A number becomes its JSON text. A
    key over 512 bytes becomes "sha256:" and its hash.
    """
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        return None
    key = value if isinstance(value, str) else _encode_canonical(value)
    encoded = key.encode()
    return key if len(encoded) <= _MAX_KEY_BYTES else _hash_bytes(encoded)


def hash_record(record: Any) -> str:
    """Return "sha256:" and the hash of a record's canonical JSON: equal records have equal keys."""
    return _hash_bytes(_encode_canonical(record).encode())


def _hash_bytes(encoded: bytes) -> str:
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"
