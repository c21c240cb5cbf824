"""A receiver end to end: one signed event, answered, stored and settled."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import httpx

from app.checks.check_result import CheckResult, fail, ok, warn
from app.config.settings import Settings, WebhookSecret
from app.database.diagnostics import missing_file
from app.database.engine import open_database
from app.errors import StoreUnavailable
from app.store.delivery_filter import DeliveryFilter, find_deliveries
from app.truto.coerce import as_object, as_text
from app.truto.signature import sign
from app.truto.target_url import redact_address

_COMPONENT = "receiver"
_TIMEOUT_S = 6.0
_STORED_TIMEOUT_S = 2.0
_SETTLED_TIMEOUT_S = 6.0
_POLL_INTERVAL_S = 0.1


def check_receiver(settings: Settings, url: str, secret: WebhookSecret | None) -> Iterator[CheckResult]:
    """Send one `test` event, as Truto's test button does, and follow it."""
    if secret is None:
        yield warn(
            _COMPONENT, "answers", "not tried: there is no secret to sign with", "Set TRUTO_WEBHOOK_SECRET."
        )
        return
    body = _build_event(secret)
    headers = {"Content-Type": "application/json", "X-Truto-Signature": sign(body, secret.value)}
    try:
        response = httpx.post(url, content=body, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = f"nobody answers at {redact_address(url)} ({type(error).__name__})"
        yield warn(
            _COMPONENT,
            "answers",
            message,
            "Start it: rapidbridge up. If it is elsewhere: --url, or --no-post.",
        )
        return
    delivery, result = evaluate_response(response.status_code, _parse_json(response), redact_address(url))
    yield result
    if delivery is not None:
        yield from _follow_delivery(settings, delivery)
    yield from _check_readiness(url)


def _build_event(secret: WebhookSecret) -> bytes:
    event = {
        "id": str(uuid4()),
        "event": "test",
        "payload": {"foo": "bar", "sent_by": "rapidbridge doctor"},
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **({"webhook_id": secret.webhook_id} if secret.webhook_id else {}),
    }
    return json.dumps(event).encode()


def evaluate_response(
    http_status: int, response_json: dict[str, Any], url: str
) -> tuple[UUID | None, CheckResult]:
    """Say what an answer means, and which delivery it is about. url: as it may be shown."""
    status = as_text(response_json.get("status"))
    delivery = _parse_uuid(response_json.get("delivery"))
    if http_status == 200 and status in ("accepted", "duplicate") and delivery:
        return delivery, ok(_COMPONENT, "answers", f"200 {status} at {url}")
    if http_status == 401:
        advice = "Set the same TRUTO_WEBHOOK_SECRET there as here, and restart it."
        return None, fail(
            _COMPONENT, "answers", f"401 at {url}: it does not know the secret that is set here", advice
        )
    if http_status == 200:
        advice = "See what listens there: Truto takes this answer for delivered."
        return None, fail(_COMPONENT, "answers", f"200 at {url}, but not as this receiver answers", advice)
    advice = "See the receiver's log, and that the address ends with /webhooks/truto."
    return None, fail(_COMPONENT, "answers", f"{http_status} {status}".strip() + f" at {url}", advice)


def _follow_delivery(settings: Settings, delivery: UUID) -> Iterator[CheckResult]:
    """Look for a delivery in the store until it is settled."""
    if missing_file(settings.database_url):
        yield evaluate_state(None)
        return
    store = open_database(settings.database_url, lock_timeout_s=3.0)
    started = time.monotonic()
    try:
        while True:
            state = next(
                (match.state for match in find_deliveries(store, DeliveryFilter(ids=[delivery]))), None
            )
            within_s = {None: _STORED_TIMEOUT_S, "pending": _SETTLED_TIMEOUT_S}.get(state, 0.0)
            if time.monotonic() - started >= within_s:
                break
            time.sleep(_POLL_INTERVAL_S)
        yield evaluate_state(state)
    except StoreUnavailable as error:
        message = f"whether it is stored cannot be seen from here: {error}"
        yield warn(_COMPONENT, "stored", message, "Mend the store, then ask again.")
    finally:
        store.close()


def evaluate_state(state: str | None) -> CheckResult:
    """Say what became of the event. state: of its delivery in the store here; None where it is not there."""
    if state is None:
        advice = (
            "Set the same DATABASE_URL there as here; or its database is away, and it spools: see the store."
        )
        return fail(_COMPONENT, "stored", "it took the event, which is not in this store", advice)
    if state == "pending":
        message = f"stored, but no worker settled it within {_SETTLED_TIMEOUT_S:g} s"
        return warn(_COMPONENT, "settled", message, "Start: rapidbridge worker. After a backlog, look again.")
    return ok(_COMPONENT, "settled", f"stored, and {state} by a worker")


def _check_readiness(url: str) -> Iterator[CheckResult]:
    """Ask the receiver how it sees itself: it may have other settings than we do."""
    parts = urlsplit(url)
    readyz = urlunsplit((parts.scheme, parts.netloc, "/readyz", "", ""))
    try:
        response = httpx.get(readyz, timeout=_TIMEOUT_S, trust_env=False)
    except httpx.HTTPError:
        return
    response_json = _parse_json(response)
    if response.status_code == 200:
        yield ok(_COMPONENT, "ready", "says that it is ready")
    elif response.status_code == 503 and response_json.get("status") == "unready":
        wrong = {
            name: reason for name, reason in response_json.items() if name != "status" and reason != "ok"
        }
        message = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
        yield fail(
            _COMPONENT, "ready", f"says that it is not ready: {message}", "Mend what it names, where it runs."
        )


def _parse_json(response: httpx.Response) -> dict[str, Any]:
    try:
        return as_object(response.json())
    except ValueError:
        return {}


def _parse_uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
