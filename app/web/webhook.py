"""POST /webhooks/truto over WSGI: from a request's bytes to the receiver, and its answer back."""

from collections.abc import Callable, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from app.truto.signature import parse_header
from app.web.memory_budget import Room, Share
from app.web.request_body import read_body
from app.web.responses import Answer, answer_fault, finish

WEBHOOK_PATH = "/webhooks/truto"
HINT = f"webhooks are received by POST {WEBHOOK_PATH}"


class Endpoint:
    """The one URL that Truto posts to; all others are Flask's.

    Flask's view of a request (contexts, routing, objects for request and response) takes half of all that
    a small delivery costs, and nothing of it is needed here.

    receive: takes a body and its signature header, stores it and says what became of it.
    """

    def __init__(
        self,
        receive: Callable[[bytes, str | None], Answer],
        *,
        most_bytes: int,
        room: Room,
        others: WSGIApplication,
    ) -> None:
        self._receive = receive
        self._most_bytes = most_bytes
        self._room = room
        self._others = others

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if environ["PATH_INFO"] != WEBHOOK_PATH:
            return self._others(environ, start_response)
        answer, is_read = self._answer(environ)
        body = answer.body
        start_response(answer.status_line, answer.all_headers(body))
        return [body] if is_read else finish(environ, [body])

    def _answer(self, environ: WSGIEnvironment) -> tuple[Answer, bool]:
        """Return the answer, and whether the request's body was read to its end."""
        if environ["REQUEST_METHOD"] != "POST":
            return Answer(405, "method_not_allowed", message=HINT, headers=(("Allow", "POST"),)), False
        signature = environ.get("HTTP_X_TRUTO_SIGNATURE")
        try:
            # Before the body: whoever cannot sign does not get to make us read.
            parse_header(signature)
            with Share(self._room) as share:
                return self._receive(read_body(environ, self._most_bytes, share), signature), True
        except Exception as error:  # noqa: BLE001  # every fault has an answer, and none may quote the body
            return answer_fault(error), False
