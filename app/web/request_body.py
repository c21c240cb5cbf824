"""Reading of a request's body, with limits on size, time and memory."""

from collections.abc import Callable
from wsgiref.types import WSGIEnvironment

import gevent
from werkzeug.wsgi import get_input_stream

from app.errors import BodyIncomplete, BodyTooLarge, Overloaded
from app.web.gunicorn_worker import direct_reader
from app.web.memory_budget import Reservation

# For the whole body. Platforms' routers time out after 30 s.
BODY_TIMEOUT_S = 20
_STEP_BYTES = 1024 * 1024
# Bodies up to this size need no reservation, so small bodies never wait.
_UNRESERVED_BYTES = 64 * 1024


def read_body(environ: WSGIEnvironment, max_bytes: int, reservation: Reservation) -> bytes:
    """Return the body as sent, chunked or not.

    reservation: the memory for a large body; waiting for memory counts towards the timeout.
    Raises BodyTooLarge once more than `max_bytes` are announced or read, BodyIncomplete if the sender stalls,
    disconnects early or breaks the framing, Overloaded if no memory becomes free in time.
    """
    length = _announced_length(environ)
    if length is not None and length > max_bytes:
        raise BodyTooLarge(f"the body has {length} bytes, more than MAX_BODY_BYTES allows ({max_bytes})")
    try:
        with gevent.Timeout(BODY_TIMEOUT_S):
            read = direct_reader(environ) or get_input_stream(environ).read
            body = _read_all(read, length, max_bytes, reservation)
    except gevent.Timeout as error:
        if reservation.is_waiting:
            raise Overloaded(f"no memory for a large body became free within {BODY_TIMEOUT_S} s") from error
        raise BodyIncomplete(f"the body did not arrive completely within {BODY_TIMEOUT_S} s") from error
    except (BodyTooLarge, Overloaded):
        raise
    except Exception as error:  # gunicorn raises errors of its own for broken framing
        raise BodyIncomplete(f"the body ended early ({type(error).__name__})") from error
    if length is not None and len(body) < length:
        raise BodyIncomplete(f"the body ended after {len(body)} of {length} bytes")
    return body


def _announced_length(environ: WSGIEnvironment) -> int | None:
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    # gunicorn has already rejected values that are not numbers.
    return int(environ.get("CONTENT_LENGTH") or 0)


def _read_all(
    read: Callable[[int], bytes], length: int | None, max_bytes: int, reservation: Reservation
) -> bytes:
    parts = []
    total = 0
    step = _UNRESERVED_BYTES
    while part := read(min(step, max_bytes + 1 - total)):
        parts.append(part)
        total += len(part)
        if total > max_bytes:
            raise BodyTooLarge(f"the body has more bytes than MAX_BODY_BYTES allows ({max_bytes})")
        if total == length:
            break
        step -= len(part)
        if not step:
            # Reserve before reading: the bytes of the next step take memory as they arrive.
            step = _STEP_BYTES
            reservation.acquire(step)
    return b"".join(parts)
