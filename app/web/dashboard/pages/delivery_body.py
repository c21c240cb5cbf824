"""The body of a delivery: its beginning as a page, and all of it as a download."""

import codecs
import threading
import time
from collections.abc import Iterator
from itertools import chain
from uuid import UUID

import gevent
import structlog
from flask import Blueprint, Response, render_template, request
from werkzeug.exceptions import NotFound, ServiceUnavailable

from app.database.engine import Database
from app.errors import StoreUnavailable
from app.store.delivery_detail import DeliveryRow
from app.store.stored_body import read_body_start, stream_body
from app.web.connection import Connection, find_connection
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.pages.deliveries import find_delivery

_SHOWN_BYTES = 64 * 1024
# Of one process.
_MAX_DOWNLOADS = 2
_DOWNLOAD_TIMEOUT_S = 600.0
# gevent does not look at the sockets during a sleep of 0.
_SHORTEST_SLEEP_S = 1e-6
_DAMAGED = "The stored body is damaged and cannot be read. Restore the database from a backup to get it back."

log = structlog.get_logger()


def register(pages: Blueprint, dashboard: Dashboard) -> None:
    """Add the page and the download to the blueprint."""
    database = dashboard.database
    slots = threading.BoundedSemaphore(_MAX_DOWNLOADS)

    @pages.get("/deliveries/<delivery_id>/body")
    def body(delivery_id: str) -> str:
        delivery = find_delivery(database, delivery_id).delivery
        text, problem = "", _explain_missing(delivery)
        if not problem:
            dashboard.audit("body.show", str(delivery.id))
            text, problem = _read_text(database, delivery)
        return render_template(
            "dashboard/delivery_body.html",
            delivery=delivery,
            text=text,
            problem=problem,
            shown_bytes=_SHOWN_BYTES,
            may_download=delivery.pruned_at is None,
        )

    @pages.get("/deliveries/<delivery_id>/body/raw")
    def raw_body(delivery_id: str) -> Response:
        delivery = find_delivery(database, delivery_id).delivery
        if problem := _explain_missing(delivery):
            raise NotFound(problem)
        if not slots.acquire(blocking=False):
            raise ServiceUnavailable(f"{_MAX_DOWNLOADS} downloads run already. Try again when one has ended.")
        try:
            dashboard.audit("body.download", str(delivery.id))
            response = _build_download(database, delivery)
        except BaseException:
            slots.release()
            raise
        # Also if the client goes away before the first part.
        response.call_on_close(slots.release)
        return response


def _explain_missing(delivery: DeliveryRow) -> str:
    """Return why a delivery has no body; "" if it has one."""
    if delivery.pruned_at is None:
        return ""
    at = f"{delivery.pruned_at:%Y-%m-%d %H:%M:%S} UTC"
    # Erasure sets the size to 0.
    if not delivery.body_bytes:
        return f"The body was erased with the data of its account at {at}."
    return f"The body was deleted by the retention at {at}. An archive may hold it: see `rapidbridge replay`."


def _read_text(database: Database, delivery: DeliveryRow) -> tuple[str, str]:
    """Return the beginning of a body as text, or the reason why it is not shown."""
    try:
        start = read_body_start(database, delivery.id, max_bytes=_SHOWN_BYTES)
    except ValueError:
        return "", _DAMAGED
    if not start:
        return "", "The body is empty."
    try:
        # The last character may be cut.
        is_whole = len(start) >= delivery.body_bytes
        return codecs.getincrementaldecoder("utf-8-sig")().decode(start, final=is_whole), ""
    except UnicodeDecodeError:
        return "", "The body is not text in UTF-8, so it is not shown here. Download it to inspect it."


def _build_download(database: Database, delivery: DeliveryRow) -> Response:
    parts = stream_body(database, delivery.id)
    try:
        # Before the response begins: after it, a fault can only break the connection.
        first = next(parts, b"")
    except ValueError as error:
        raise NotFound(_DAMAGED) from error
    response = Response(
        _send_parts(chain([first], parts), delivery.id, find_connection(request.environ)),
        content_type="application/octet-stream",
    )
    response.headers["Content-Disposition"] = f'attachment; filename="delivery-{delivery.id}.json"'
    # No browser may run it, whatever it takes it for.
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    response.content_length = delivery.body_bytes
    return response


def _send_parts(parts: Iterator[bytes], delivery_id: UUID, connection: Connection | None) -> Iterator[bytes]:
    """Yield parts, and let other requests run between them; a fault ends the connection."""
    deadline = time.monotonic() + _DOWNLOAD_TIMEOUT_S
    try:
        for part in parts:
            if time.monotonic() > deadline:
                raise StoreUnavailable(f"a download took longer than {_DOWNLOAD_TIMEOUT_S:g} s")
            if connection:
                connection.extend_response()
            yield part
            gevent.sleep(_SHORTEST_SLEEP_S)
    except (ValueError, StoreUnavailable) as error:
        log.warning("download.failed", delivery=str(delivery_id), error=str(error))
        if connection:
            # The client notices that bytes are missing.
            connection.evict()
