"""Compression of bodies."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.store.compression import compress, decompress


@given(st.lists(st.binary(max_size=5000), max_size=5))
def test_every_body_of_a_group_is_decompressed_unchanged(bodies: list[bytes]) -> None:
    assert [decompress(stored) for stored in compress(bodies)] == bodies


def test_a_zlib_body_of_an_earlier_release_is_readable() -> None:
    assert decompress(zlib.compress(b'{"event": "test"}', 1)) == b'{"event": "test"}'


@pytest.mark.parametrize("stored", [b"", b"no body", b"\x78\x01broken", compress([b"x" * 99])[0][:-1]])
def test_damaged_bytes_raise_a_value_error(stored: bytes) -> None:
    with pytest.raises(ValueError, match="the stored body is damaged"):
        decompress(stored)
