"""Reads a request's body whole: bounded in size and in time."""

import socket
from contextlib import suppress
from typing import IO, Any
from wsgiref.types import WSGIEnvironment

import gevent
from gunicorn.http.body import LengthReader

from app.errors import BodyIncomplete, BodyTooLarge, Overloaded
from app.web.memory_budget import Share

# From the first byte to the last, however they drip. Platforms' routers give up after 30 s.
DEADLINE_S = 20
_STEP_BYTES = 1024 * 1024
# Small bodies never wait for room.
_FREE_BYTES = 64 * 1024


def read_body(environ: WSGIEnvironment, most_bytes: int, share: Share) -> bytes:
    """Return the body as sent, chunked or not.

    share: the room that its bytes take; what a large body waits for counts as its own time.
    Raises BodyTooLarge as soon as more than `most_bytes` are announced or read, BodyIncomplete where the
    sender stalls, hangs up early or breaks the framing, Overloaded where no room became free in time.
    """
    length = _announced_length(environ)
    if length is not None and length > most_bytes:
        raise BodyTooLarge(f"the body has {length} bytes, more than MAX_BODY_BYTES allows ({most_bytes})")
    reader = environ["wsgi.input"].reader
    try:
        with gevent.Timeout(DEADLINE_S):
            if isinstance(reader, LengthReader):
                body = _read_known(reader, share)
            else:
                body = _read_unknown(environ["wsgi.input"], most_bytes, share)
    except gevent.Timeout as error:
        if share.is_waiting:
            raise Overloaded(f"no room for a large body became free within {DEADLINE_S} s") from error
        raise BodyIncomplete(f"the body did not arrive whole within {DEADLINE_S} s") from error
    except BodyTooLarge:
        raise
    except Exception as error:  # gunicorn raises errors of its own for broken framing
        raise BodyIncomplete(f"the body broke off ({type(error).__name__})") from error
    if length is not None and len(body) < length:
        raise BodyIncomplete(f"the body broke off after {len(body)} of {length} bytes")
    return body


def _announced_length(environ: WSGIEnvironment) -> int | None:
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    # gunicorn has refused whatever is no number.
    return int(environ.get("CONTENT_LENGTH") or 0)


def _read_known(reader: Any, share: Share) -> bytes:
    """Read a body whose length was announced straight from its socket.

    gunicorn's own way copies it four times and reads up to 1 MiB ahead, for which nobody has taken room. Ends
    early where the sender hangs up.
    """
    unreader, left = reader.unreader, reader.length
    came = unreader.take_buffered()
    parts = [came[:left]]
    if len(came) > left:
        unreader.unread(came[left:])
    try:
        left -= len(parts[0])
        step = _FREE_BYTES
        while left:
            part = unreader.sock.recv(min(step, left))
            if not part:
                break
            parts.append(part)
            left -= len(part)
            step -= len(part)
            if left and not step:
                # Not before there is room for it.
                step = _STEP_BYTES
                share.take(step)
    finally:
        # What is left is thrown away before the next request on this connection, or ends it.
        reader.length = left
    return b"".join(parts)


def _read_unknown(stream: IO[bytes], most_bytes: int, share: Share) -> bytes:
    """Read a body that comes in chunks."""
    parts = []
    total = 0
    step = _FREE_BYTES
    while part := stream.read(min(step, most_bytes + 1 - total)):
        if len(part) == step:
            # There may be more: not before there is room for it.
            step = _STEP_BYTES
            share.take(step)
        parts.append(part)
        total += len(part)
        if total > most_bytes:
            raise BodyTooLarge(f"the body has more bytes than MAX_BODY_BYTES allows ({most_bytes})")
    return b"".join(parts)


def discard_body(environ: WSGIEnvironment, *, most_bytes: int, most_s: float) -> None:
    """Read what is left of a body and throw it away; beyond these bounds, hang up.

    Closing a connection on unread bytes resets it, and the sender may never see the answer. gunicorn would
    keep it, and read on for as long as an idle connection is kept: it sends no `Connection` header of ours.
    """
    stream: IO[bytes] = environ["wsgi.input"]
    is_at_end = False
    try:
        with gevent.Timeout(most_s):
            while most_bytes > 0 and not is_at_end:
                part = stream.read(_STEP_BYTES)
                most_bytes -= len(part)
                is_at_end = not part
    except (gevent.Timeout, Exception):  # noqa: BLE001, S110  # the answer is sent: nothing is left to save
        pass
    if not is_at_end:
        with suppress(OSError):
            environ["gunicorn.socket"].shutdown(socket.SHUT_RDWR)
