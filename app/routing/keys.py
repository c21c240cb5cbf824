"""Keys of records: the id as text, or a hash; pure."""

import hashlib
import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

from app.truto.record_path import find_value
from app.truto.records import ExactDecimal, decimal_text, decode_json

# An index of PostgreSQL takes keys of up to 2,712 bytes; account and key share one.
_MAX_KEY_BYTES = 512
# Invalid bytes of a text that was decoded with "surrogateescape".
_INVALID_BYTE = re.compile("[\udc80-\udcff]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def _encode_canonical(value: Any) -> str:
    """Return JSON whose text never changes between releases: keys are made from it."""
    return json.dumps(
        value,
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
        sort_keys=True,
        default=_to_canonical_number,
    )


def _to_canonical_number(decimal: ExactDecimal) -> float | list[str]:
    # Earlier releases read decimals as floats: a decimal that is the text of a float keeps its hash.
    text = decimal_text(decimal)
    number = float(text)
    try:
        is_exact = Decimal(text) in (Decimal(repr(number)), Decimal(f"{number:.17g}"))
    except InvalidOperation:  # an exponent beyond those of Decimal
        is_exact = False
    return number if is_exact else ["decimal", text]


def extract_key(record: dict[str, Any], path: str) -> str | None:
    """Return a record's key, or None.

    None: there is no path, or the key is missing, null, empty, a boolean, a list or an object. A number
    becomes its JSON text. A key over 512 bytes becomes "sha256:" and its hash.
    """
    value = find_value(record, path) if path else None
    if isinstance(value, str) and value:
        key = value
    elif isinstance(value, ExactDecimal):
        key = decimal_text(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        key = _encode_canonical(value)
    else:
        return None
    encoded = key.encode()
    return key if len(encoded) <= _MAX_KEY_BYTES else _hash_bytes(encoded)


def hash_record(record: Any) -> str:
    """Return "sha256:" and the hash of a record's canonical JSON: equal records have equal keys."""
    return _hash_bytes(_encode_canonical(record).encode())


def hash_original(original: str, path: str, *, is_wrapped: bool) -> str | None:
    """Return a hash of the value at a path as it was sent; None if none of its characters was replaced.

    original: the JSON of a record, as in Record. path: "" for the whole record. is_wrapped: the record is the
    member `value` of an object.
    """
    # Twice: an invalid byte is read as the same surrogate as its escape, and differs in the second text.
    values = []
    for text in (original, _INVALID_BYTE.sub("\ufffd", original)):
        record = {"value": decode_json(text)} if is_wrapped else decode_json(text)
        values.append(find_value(record, path) if path else record)
    if path and not (isinstance(values[0], str) and _UNSTORABLE.search(values[0])):
        return None
    encoded = [_encode_canonical(value).encode(errors="surrogatepass") for value in values]
    # The byte is no UTF-8, so that no text and no other record has this hash.
    return _hash_bytes(b"\xff".join([b"", *encoded]))


def _hash_bytes(encoded: bytes) -> str:
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"
