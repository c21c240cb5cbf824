"""POST /webhooks/truto: the Flask view that receives Truto's events."""

import time

from flask import Blueprint, Response, request

from app.truto.signature import parse_signature_header
from app.truto.target_url import WEBHOOK_PATH
from app.web.connection import find_connection
from app.web.memory_budget import MemoryBudget, Reservation
from app.web.request_body import read_body
from app.web.webhook_handler import WebhookHandler

HINT = f"webhooks are received by POST {WEBHOOK_PATH}"


def create_webhooks_blueprint(
    handler: WebhookHandler,
    *,
    max_body_bytes: int,
    memory_budget: MemoryBudget,
    verified_memory_budget: MemoryBudget,
) -> Blueprint:
    """Return the blueprint with the view; the application handles its errors.

    verified_memory_budget: for connections that have sent a verified body. Unsigned clients can use up the
    memory_budget of all others, with large bodies that stall.
    """
    webhooks = Blueprint("webhooks", __name__)

    # Accept a slash at the end of the target URL: a redirect would lose every page.
    @webhooks.post(WEBHOOK_PATH, strict_slashes=False, provide_automatic_options=False)
    def receive() -> Response:
        began_s = time.monotonic()
        # Check the header first: the body of an unsigned request must not be read.
        environ = request.environ
        mac = parse_signature_header(environ.get("HTTP_X_TRUTO_SIGNATURE"))
        connection = find_connection(environ)
        is_verified = connection is not None and connection.is_verified
        budget = verified_memory_budget if is_verified else memory_budget
        with Reservation(budget) as reservation:
            if connection is not None:
                connection.reservation = reservation
            body = read_body(environ, max_body_bytes, reservation)
            # Before the body is stored: while no store works, the connections are still Truto's.
            on_verified = connection.mark_verified if connection is not None else lambda: None
            response = handler.receive(body, mac, on_verified, began_s=began_s, environ=environ)
            return response.to_flask()

    return webhooks
