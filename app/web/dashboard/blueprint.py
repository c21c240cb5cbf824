"""The Flask blueprint of the dashboard: access, bounds, errors and headers of all pages."""

import hashlib
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gevent
import structlog
from flask import Blueprint, Response, g, make_response, redirect, render_template, request, url_for
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from werkzeug.exceptions import (
    Forbidden,
    HTTPException,
    NotFound,
    RequestTimeout,
    ServiceUnavailable,
    TooManyRequests,
)
from werkzeug.wrappers import Response as BaseResponse

from app.clock import utc_now
from app.config.version import VERSION
from app.errors import QueueUnavailable, StoreUnavailable
from app.logs import locate_error, log_limited
from app.web.dashboard.access import (
    CSRF_FIELD,
    Access,
    Role,
    SignInLimit,
    find_client_address,
    is_forged,
)
from app.web.dashboard.dashboard import Dashboard
from app.web.dashboard.formatting import FILTERS, describe_subject, escape_invisible
from app.web.dashboard.id_converter import register_id_converter
from app.web.dashboard.pages import PAGE_MODULES
from app.web.dashboard.paging import build_url
from app.web.dashboard.sign_in import register_sign_in
from app.web.responses import WebhookResponse, WebhookStatus

_MAX_FORM_BYTES = 64 * 1024
# Anyone may send these. Reading a form of 64 KiB with a thousand parts takes 15 ms.
_MAX_SIGN_IN_BYTES = 2048
_MAX_SIGN_IN_PARTS = 10
_FORM_TIMEOUT_S = 5.0
_VIEW_TIMEOUT_S = 8.0
# Of one process: pages must not take the database from each other, nor the memory from deliveries.
_MAX_VIEWS = 4
# Neither scripts nor styles nor images of anybody else, and none inside the page: records are hostile input.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_NAVIGATION = (
    ("/", "Accounts"),
    ("/overview", "Overview"),
    ("/runs", "Runs"),
    ("/deliveries", "Deliveries"),
    ("/failed", "Failed"),
    ("/sinks", "Sinks"),
    ("/routes", "Routes"),
    ("/operations", "Operations"),
)
_STATIC = Path(__file__).parent / "static"
_CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_WITHOUT_SESSION = ("dashboard.sign_in", "dashboard.check_password", "dashboard.asset")
# Flask answers HEAD with the view of GET. Every other method reads a form.
_READING_METHODS = ("GET", "HEAD", "OPTIONS")

log = structlog.get_logger()


def create_dashboard(dashboard: Dashboard) -> Blueprint:
    """Return the blueprint with all pages, or only with a hint if no password is set."""
    access = Access(dashboard.config.settings)
    pages = _Pages("dashboard", __name__, template_folder="templates")
    if not access.is_on:
        pages.add_url_rule("/", "off", _explain_off)
        return pages
    assets = {path.name: path.read_bytes() for path in _STATIC.iterdir()}
    digest = hashlib.sha256(b"".join(assets.values())).hexdigest()[:12]
    pages.record_once(lambda state: _prepare_templates(state.app.jinja_env))
    pages.record_once(register_id_converter)
    limit = SignInLimit()
    pages.before_request(lambda: _check_access(access, limit))
    pages.after_request(_add_headers)
    pages.context_processor(lambda: _build_context(digest))
    pages.register_error_handler(HTTPException, _http_error_page)
    pages.register_error_handler(StoreUnavailable, _unavailable_page)
    pages.register_error_handler(QueueUnavailable, _unavailable_page)
    pages.register_error_handler(Exception, _error_page)
    pages.add_url_rule("/assets/<name>", "asset", lambda name: _serve_asset(assets, name))
    register_sign_in(pages, access, dashboard, limit)
    for module in PAGE_MODULES:
        module.register(pages, dashboard)
    return pages


class _Pages(Blueprint):
    """A blueprint whose views have a deadline, and of which only a few run at once in a process."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._slots = threading.BoundedSemaphore(_MAX_VIEWS)

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        provide_automatic_options: bool | None = None,
        **options: Any,
    ) -> None:
        bounded = self._bound(view_func) if view_func else None
        super().add_url_rule(rule, endpoint, bounded, provide_automatic_options, **options)

    def _bound(self, view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def bounded(**arguments: Any) -> Any:
            timeout = gevent.Timeout.start_new(_VIEW_TIMEOUT_S)
            has_slot = False
            try:
                has_slot = self._slots.acquire(timeout=_VIEW_TIMEOUT_S)
                return view(**arguments)
            except gevent.Timeout as error:
                if error is not timeout:
                    raise
                text = f"The page was not ready within {_VIEW_TIMEOUT_S:g} s: the database is slow, or busy."
                raise ServiceUnavailable(text) from None
            finally:
                timeout.close()
                if has_slot:
                    self._slots.release()

        return bounded


def _explain_off() -> Response:
    message = "the dashboard is off: set DASHBOARD_PASSWORD to switch it on"
    return WebhookResponse.build(WebhookStatus.NOT_FOUND, message=message).to_flask()


def _prepare_templates(environment: Environment) -> None:
    environment.trim_blocks = environment.lstrip_blocks = True
    environment.undefined = StrictUndefined
    environment.filters.update(FILTERS)
    environment.finalize = escape_invisible
    # Macros see no context of a page.
    environment.globals["build_url"] = build_url


def _check_access(access: Access, limit: SignInLimit) -> BaseResponse | None:
    """Return a redirect to the sign-in page, or None; raises HTTPException.

    limit: of wrong passwords; a client that reached it sends forms in vain.
    """
    g.session = access.find_session(request)
    request.max_content_length = request.max_form_memory_size = _MAX_FORM_BYTES
    sends_form = request.method not in _READING_METHODS
    if request.endpoint == "dashboard.check_password":
        request.max_content_length = request.max_form_memory_size = _MAX_SIGN_IN_BYTES
        request.max_form_parts = _MAX_SIGN_IN_PARTS
        address = find_client_address(request)
        if limit.is_reached(address):
            log_limited("sign_in.limited", address=address)
            text = "Too many wrong passwords. Wait five minutes, and try again."
            raise TooManyRequests(text, retry_after=round(SignInLimit.WINDOW_S))
    if request.endpoint not in _WITHOUT_SESSION and g.session is None:
        if sends_form:
            raise Forbidden("You are not signed in, or your session has ended. Sign in, and try again.")
        target = request.full_path.removesuffix("?")
        return redirect(url_for("dashboard.sign_in", next=None if target == "/" else target), 303)
    if sends_form:
        is_signing_in = request.endpoint in _WITHOUT_SESSION
        if not is_signing_in and g.session.role != Role.WRITE and request.endpoint != "dashboard.sign_out":
            raise Forbidden("This session may only read. Sign in with the other password to change anything.")
        # A form that arrives slowly must not take a place of the pages.
        with gevent.Timeout(_FORM_TIMEOUT_S, RequestTimeout("The form did not arrive in time.")):
            forged = is_forged(request, None if is_signing_in else g.session)
        if forged:
            raise Forbidden("The form was not sent by this page. Reload the page, and try again.")
    return None


def _add_headers(response: BaseResponse) -> BaseResponse:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    # Customers' data must not stay in a browser's cache.
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def _build_context(digest: str) -> dict[str, Any]:
    session = g.get("session")
    return {
        "may_write": session is not None and session.role == Role.WRITE,
        "session": session,
        "csrf_field": lambda: _build_csrf_field(session.csrf) if session else Markup(),
        "describe_subject": describe_subject,
        "NAVIGATION": _NAVIGATION,
        "assets": digest,
        "release": VERSION,
        "now": utc_now(),
    }


def _build_csrf_field(value: str) -> Markup:
    return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, value)


def _serve_asset(assets: dict[str, bytes], name: str) -> BaseResponse:
    if name not in assets:
        raise NotFound
    response = make_response(assets[name])
    response.content_type = _CONTENT_TYPES[Path(name).suffix]
    # Its URL changes with its content.
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response


def _http_error_page(error: HTTPException) -> BaseResponse:
    if error.response is not None:
        return error.get_response()
    response = _render_error(error.code or 500, error.name, error.description or "")
    if isinstance(error, TooManyRequests):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _unavailable_page(error: StoreUnavailable | QueueUnavailable) -> BaseResponse:
    log.warning("page.unavailable", path=request.path, error=str(error))
    text = f"{str(error)[:1].upper()}{str(error)[1:]}. Deliveries that arrive meanwhile are kept in Redis."
    if isinstance(error, QueueUnavailable):
        text = f"{str(error)[:1].upper()}{str(error)[1:]}."
    return _render_error(503, "The page cannot be shown now", text)


def _error_page(error: Exception) -> BaseResponse:
    # The message may quote a record.
    log.error("page.failed", path=request.path, fault=type(error).__name__, location=locate_error(error))
    return _render_error(500, "The page failed", "Find page.failed in the log of the web process.")


def _render_error(http_status: int, title: str, text: str) -> BaseResponse:
    body = render_template("dashboard/error.html", title=title, text=text, http_status=http_status)
    return make_response(body, http_status)
