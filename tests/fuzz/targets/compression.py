"""Fuzz target: a compressed body."""

from app.store.compression import compress, decompress, decompress_parts

_MAX_BYTES = 64 * 1024
_PART_BYTES = 512
_MAX_PARTS = 300


def check(content: bytes) -> None:
    """Check that a stored body gives the original, or a ValueError.

    content: the stored bytes. No limit on the size is exceeded, parts give the same bytes, and a body that
    is compressed again is the same.
    """
    try:
        body = decompress(content, max_bytes=_MAX_BYTES)
    except ValueError:
        body = None
    if body is not None:
        assert len(body) <= _MAX_BYTES, "the body is longer than the limit"
        assert decompress(compress([body])[0], max_bytes=_MAX_BYTES) == body
    parts, size = [], 0
    try:
        for part in decompress_parts([content], max_bytes=_PART_BYTES):
            assert len(part) <= _PART_BYTES, "the part is longer than the limit"
            parts.append(part)
            size += len(part)
            if len(parts) > _MAX_PARTS:
                return
    except ValueError:
        return
    assert body is None or size == 0 or b"".join(parts) == body, "the parts differ from the whole"
