"""Fuzz target: the signature header of a request."""

from app.errors import SignatureError
from app.truto.signature import ENCODINGS, find_encoding, parse_signature_header, verify

_SECRETS = ("0b6ad2b7-5cf4-4b19-9d0e-5d9e7ad0a4a1", "a second secret")


def check(content: bytes) -> None:
    """Check that a header gives a MAC or a SignatureError.

    content: the bytes of the header, as a client sends them. A MAC has 32 bytes, and does not sign the header
    itself. An error does not quote the header.
    """
    # WSGI passes a header in this encoding.
    header = content.decode("latin-1")
    try:
        mac = parse_signature_header(header)
    except SignatureError as error:
        assert len(header) < 20 or header not in str(error), "the error quotes the header"
        return
    assert len(mac) == 32, "the MAC has another length"
    assert find_encoding(header, mac) in ENCODINGS
    assert parse_signature_header(f"format=sha256,v={mac.hex()}") == mac
    try:
        verify(content, mac, _SECRETS)
    except SignatureError:
        return
    raise AssertionError("the header signs itself")
