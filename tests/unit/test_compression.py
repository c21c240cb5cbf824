"""Compression of bodies."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.store.compression import compress, decompress, decompress_parts


@given(st.lists(st.binary(max_size=5000), max_size=5))
def test_every_body_of_a_group_is_decompressed_unchanged(bodies: list[bytes]) -> None:
    assert [decompress(stored) for stored in compress(bodies)] == bodies


def test_a_zlib_body_of_an_earlier_release_is_readable() -> None:
    assert decompress(zlib.compress(b'{"event": "test"}', 1)) == b'{"event": "test"}'


@given(st.binary(max_size=5000), st.integers(1, 700), st.integers(1, 700), st.booleans())
def test_a_body_is_decompressed_in_parts_of_any_size(
    body: bytes, stored_bytes: int, max_bytes: int, is_zlib: bool
) -> None:
    stored = zlib.compress(body * 3, 1) if is_zlib else compress([body * 3])[0]
    stored_parts = [stored[start : start + stored_bytes] for start in range(0, len(stored), stored_bytes)]

    parts = list(decompress_parts(stored_parts, max_bytes=max_bytes))

    assert b"".join(parts) == body * 3
    assert all(0 < len(part) <= max_bytes for part in parts)


@pytest.mark.parametrize("stored", [b"no body", b"\x78\x01broken", compress([b"x" * 99])[0][:-1]])
def test_damaged_parts_raise_a_value_error(stored: bytes) -> None:
    with pytest.raises(ValueError, match="the stored body is damaged"):
        list(decompress_parts([stored[:5], stored[5:]], max_bytes=9))


@pytest.mark.parametrize("stored", [b"", b"no body", b"\x78\x01broken", compress([b"x" * 99])[0][:-1]])
def test_damaged_bytes_raise_a_value_error(stored: bytes) -> None:
    with pytest.raises(ValueError, match="the stored body is damaged"):
        decompress(stored)
