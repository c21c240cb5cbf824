"""End-to-end check of a receiver with one signed test event."""

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import httpx

from app.checks.check_result import NOT_CHECKED, CheckLevel, CheckResult, fail, ok, warn
from app.clock import utc_now
from app.config.settings import Settings, WebhookSecret
from app.database.inspection import missing_file
from app.errors import StoreUnavailable
from app.http_client import open_http_client, send
from app.store.delivery_filter import DeliveryFilter, find_deliveries
from app.store.models import DeliveryState
from app.store.store_database import open_store
from app.truto.coerce import as_object, as_text
from app.truto.signature import sign
from app.truto.target_url import WEBHOOK_PATH, redact_target_url

_COMPONENT = "receiver"
_TIMEOUT_S = 6.0
_MAX_RESPONSE_BYTES = 65536
_STORED_TIMEOUT_S = 2.0
_SETTLED_TIMEOUT_S = 6.0
_POLL_INTERVAL_S = 0.1
_LOCK_TIMEOUT_S = 3.0
_NOT_CHECKED = "Not checked: whether a receiver accepts deliveries."
# By the last result of the check.
_SUMMARIES: dict[tuple[str, CheckLevel], str] = {
    ("settled", "ok"): "The receiver accepted a test event, and a worker settled it.",
    ("settled", "warn"): "The receiver accepted a test event, but no worker delivered it.",
    ("stored", "fail"): "The receiver accepted a test event, but it is not in this store.",
    ("stored", "warn"): "The receiver accepted a test event; not checked: whether it is stored.",
    ("responds", "ok"): "The receiver accepted a test event; not checked: whether it is stored.",
    ("responds", "fail"): "The test event was not accepted.",
    ("responds", "warn"): _NOT_CHECKED,
}


def check_receiver(
    settings: Settings, url: str, secret: WebhookSecret | None, *, is_expected: bool
) -> Iterator[CheckResult]:
    """Send one `test` event to a receiver, as Truto does, and follow it until it is settled.

    The receiver keeps the event. secret: to sign with; None sends nothing. is_expected: whether a receiver
    must listen at the URL; otherwise it may run on another machine.
    """
    if secret is None:
        message = f"{NOT_CHECKED}there is no secret to sign the test event with"
        advice = (
            "Set TRUTO_WEBHOOK_SECRET, or run: rapidbridge webhook create --url https://HOST/webhooks/truto"
        )
        yield warn(_COMPONENT, "responds", message, advice)
        return
    body = _build_event(secret)
    headers = {
        "Content-Type": "application/json",
        "X-Truto-Signature": sign(body, secret.value, encoding="base64"),
    }
    shown_url = redact_target_url(url)
    try:
        response = _send("POST", url, content=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield evaluate_connection_error(error, shown_url, is_expected=is_expected)
        return
    delivery_id, result = evaluate_response(response.status_code, _parse_json(response), shown_url)
    yield result
    if delivery_id is not None:
        yield from _follow_delivery(settings, delivery_id)
    yield from _check_readiness(url)


def _build_event(secret: WebhookSecret) -> bytes:
    event = {
        "id": str(uuid4()),
        "event": "test",
        "payload": {"foo": "bar", "sent_by": "rapidbridge doctor"},
        "created_at": utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **({"webhook_id": secret.webhook_id} if secret.webhook_id else {}),
    }
    return json.dumps(event).encode()


def evaluate_connection_error(error: Exception, shown_url: str, *, is_expected: bool) -> CheckResult:
    """Return the result for a request without a response. shown_url, is_expected: see check_receiver."""
    name = type(error).__name__
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return fail(_COMPONENT, "responds", f"{shown_url} is not a valid URL", "Correct --url.")
    if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        message = f"a program listens at {shown_url}, and does not answer as this receiver does ({name})"
        advice = "Check which program it is, and read the log of the web process. Another URL: --url"
        return fail(_COMPONENT, "responds", message, advice)
    if is_expected:
        message = f"no receiver listens at {shown_url} ({name}): Truto's deliveries are lost"
        advice = "Start it there (rapidbridge up), or correct --url."
        return fail(_COMPONENT, "responds", message, advice)
    message = f"{NOT_CHECKED}no receiver listens at {shown_url} ({name})"
    advice = (
        "If it runs here, start it: rapidbridge up. If it runs elsewhere, run: "
        f"rapidbridge doctor --url https://HOST{WEBHOOK_PATH}. To skip this check: --no-post"
    )
    return warn(_COMPONENT, "responds", message, advice)


def summarize_receiver(results: Sequence[CheckResult]) -> str:
    """Return one sentence about the results of the receiver's check."""
    levels = {result.check: result.level for result in results if result.component == _COMPONENT}
    sentences = (text for (check, level), text in _SUMMARIES.items() if levels.get(check) == level)
    return next(sentences, _NOT_CHECKED)


def evaluate_response(
    http_status: int, response_json: dict[str, Any], shown_url: str
) -> tuple[UUID | None, CheckResult]:
    """Return the id of the stored delivery, if any, and the result for the response.

    shown_url: without secrets.
    """
    status = as_text(response_json.get("status"))
    delivery_id = _parse_uuid(response_json.get("delivery"))
    if http_status == 200 and status in ("accepted", "duplicate") and delivery_id:
        return delivery_id, ok(_COMPONENT, "responds", f"200 {status} from {shown_url}")
    if http_status == 401:
        message = f"401 from {shown_url}: the receiver does not know the secret that is set here"
        advice = "Set the same TRUTO_WEBHOOK_SECRET there and here, and restart the receiver."
    elif http_status == 200:
        message = f"200 from {shown_url}, but the response is not this receiver's"
        advice = "Check which server listens there: Truto treats a 200 as delivered."
    else:
        message = f"{http_status} {status}".strip() + f" from {shown_url}"
        advice = (
            f"Check that the URL ends with {WEBHOOK_PATH} and that this receiver listens there, and read the "
            "log of the web process."
        )
    return None, fail(_COMPONENT, "responds", message, advice)


def _follow_delivery(settings: Settings, delivery_id: UUID) -> Iterator[CheckResult]:
    """Poll the store until the delivery is settled or a timeout ends."""
    if missing_file(settings.database_url):
        yield evaluate_state(None)
        return
    database = open_store(settings, lock_timeout_s=_LOCK_TIMEOUT_S)
    started = time.monotonic()
    try:
        while True:
            matches = find_deliveries(database, DeliveryFilter(ids=[delivery_id]))
            state = next((delivery.state for delivery in matches), None)
            timeout_s = {None: _STORED_TIMEOUT_S, "pending": _SETTLED_TIMEOUT_S}.get(state, 0.0)
            if time.monotonic() - started >= timeout_s:
                break
            time.sleep(_POLL_INTERVAL_S)
        yield evaluate_state(state)
    except StoreUnavailable as error:
        message = f"cannot check whether the event is stored: {error}"
        yield warn(_COMPONENT, "stored", message, "Repair the store, then run: rapidbridge doctor")
    finally:
        database.close()


def evaluate_state(state: str | None) -> CheckResult:
    """Return the result for the test event's delivery.

    state: its state in the store of DATABASE_URL; None if it is not there.
    """
    if state is None:
        message = "the receiver accepted the event, but it is not in this store"
        advice = (
            "Set the same DATABASE_URL there and here. If they are the same, the receiver's database is "
            "unreachable and the event is in the spool: see the store's results."
        )
        return fail(_COMPONENT, "stored", message, advice)
    if state == "pending":
        message = f"the event is stored, but no worker settled it within {_SETTLED_TIMEOUT_S:g} s"
        advice = "Run: rapidbridge worker. After a backlog, run `rapidbridge doctor` again."
        return warn(_COMPONENT, "settled", message, advice)
    if state in (DeliveryState.SETTLED, DeliveryState.UNROUTED):
        return ok(_COMPONENT, "settled", f"the event is stored, and {state} by a worker")
    advice = "For the cause and the remedy, run: rapidbridge dead list"
    return warn(_COMPONENT, "settled", f"the event is stored, but {state}", advice)


def _check_readiness(url: str) -> Iterator[CheckResult]:
    """Read the receiver's own /readyz: its settings may differ from the ones here."""
    parts = urlsplit(url)
    readyz = urlunsplit((parts.scheme, parts.netloc, "/readyz", "", ""))
    try:
        response = _send("GET", readyz)
    except httpx.HTTPError:
        return
    response_json = _parse_json(response)
    if response.status_code == 200:
        yield _evaluate_warnings(as_object(response_json.get("warnings")))
    elif response.status_code == 503 and response_json.get("status") == "unready":
        reasons = "; ".join(
            f"{name}: {reason}"
            for name, reason in response_json.items()
            if name not in ("status", "warnings") and reason != "ok"
        )
        message = f"/readyz reports that the receiver is not ready: {reasons}"
        advice = "Repair the named parts on the receiver's machine, then run: rapidbridge doctor"
        yield fail(_COMPONENT, "ready", message, advice)


def _send(method: str, url: str, **options: Any) -> httpx.Response:
    with open_http_client(allow_private=True, trust_env=False) as client:
        return send(client, method, url, timeout_s=_TIMEOUT_S, max_bytes=_MAX_RESPONSE_BYTES, **options)


def _evaluate_warnings(warnings: dict[str, Any]) -> CheckResult:
    if not warnings:
        return ok(_COMPONENT, "ready", "/readyz reports that the receiver is ready")
    shown = ", ".join(sorted(warnings))
    message = f"/readyz reports that the receiver is ready, with warnings: {shown}"
    advice = "See the results of the other checks; if they differ, run `rapidbridge doctor` on its machine."
    return warn(_COMPONENT, "ready", message, advice)


def _parse_json(response: httpx.Response) -> dict[str, Any]:
    try:
        return as_object(response.json())
    except (ValueError, RecursionError):
        return {}


def _parse_uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
