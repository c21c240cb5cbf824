"""Bodies come back as they came."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.store.compression import compress, decompress


@given(st.lists(st.binary(max_size=5000), max_size=5))
def test_every_body_of_a_group_comes_back_as_it_came(bodies: list[bytes]) -> None:
    assert [decompress(stored) for stored in compress(bodies)] == bodies


def test_bodies_stored_by_earlier_releases_can_be_read() -> None:
    assert decompress(zlib.compress(b'{"event": "test"}', 1)) == b'{"event": "test"}'


@pytest.mark.parametrize("stored", [b"", b"no body", b"\x78\x01broken", compress([b"x" * 99])[0][:-1]])
def test_what_is_no_stored_body_is_a_value_error(stored: bytes) -> None:
    with pytest.raises(ValueError, match="no compressed body"):
        decompress(stored)
