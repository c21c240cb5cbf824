"""A receiver end to end: one signed event, answered, stored and settled."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import httpx

from app.cli.common.output import printable
from app.cli.doctor.finding import Finding, green, red, yellow
from app.cli.webhook.addresses import shown
from app.config.settings import Settings, WebhookSecret
from app.database.diagnostics import missing_file
from app.database.engine import open_store
from app.errors import StoreUnavailable
from app.store.delivery_filter import Selection, find
from app.truto.coerce import as_object, as_text
from app.truto.signature import sign

_ROOM = "receiver"
_TIMEOUT_S = 6.0
_STORED_WITHIN_S = 2.0
_SETTLED_WITHIN_S = 6.0
_POLL_S = 0.1


def check_receiver(settings: Settings, url: str, secret: WebhookSecret | None) -> Iterator[Finding]:
    """Send one `test` event, as Truto's test button does, and follow it."""
    if secret is None:
        yield yellow(
            _ROOM, "answers", "not tried: there is no secret to sign with", "Set TRUTO_WEBHOOK_SECRET."
        )
        return
    body = _event(secret)
    headers = {"Content-Type": "application/json", "X-Truto-Signature": sign(body, secret.value)}
    try:
        answer = httpx.post(url, content=body, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        message = f"nobody answers at {shown(url)} ({type(error).__name__})"
        yield yellow(
            _ROOM, "answers", message, "Start it: rapidbridge up. If it is elsewhere: --url, or --no-post."
        )
        return
    delivery, finding = judge_answer(answer.status_code, _json(answer), shown(url))
    yield finding
    if delivery is not None:
        yield from _follow(settings, delivery)
    yield from _ask_readiness(url)


def _event(secret: WebhookSecret) -> bytes:
    event = {
        "id": str(uuid4()),
        "event": "test",
        "payload": {"foo": "bar", "sent_by": "rapidbridge doctor"},
        "created_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **({"webhook_id": secret.webhook_id} if secret.webhook_id else {}),
    }
    return json.dumps(event).encode()


def judge_answer(http_status: int, told: dict[str, Any], url: str) -> tuple[UUID | None, Finding]:
    """Say what an answer means, and which delivery it is about. url: as it may be shown."""
    status = printable(as_text(told.get("status")))
    delivery = _uuid(told.get("delivery"))
    if http_status == 200 and status in ("accepted", "duplicate") and delivery:
        return delivery, green(_ROOM, "answers", f"200 {status} at {url}")
    if http_status == 401:
        advice = "Set the same TRUTO_WEBHOOK_SECRET there as here, and restart it."
        return None, red(
            _ROOM, "answers", f"401 at {url}: it does not know the secret that is set here", advice
        )
    if http_status == 200:
        advice = "See what listens there: Truto takes this answer for delivered."
        return None, red(_ROOM, "answers", f"200 at {url}, but not as this receiver answers", advice)
    advice = "See the receiver's log, and that the address ends with /webhooks/truto."
    return None, red(_ROOM, "answers", f"{http_status} {status}".strip() + f" at {url}", advice)


def _follow(settings: Settings, delivery: UUID) -> Iterator[Finding]:
    """Look for a delivery in the store until it is settled."""
    if missing_file(settings.database_url):
        yield judge_state(None)
        return
    store = open_store(settings.database_url, lock_wait_s=3.0)
    started = time.monotonic()
    try:
        while True:
            state = next((found.state for found in find(store, Selection(ids=[delivery]))), None)
            within_s = {None: _STORED_WITHIN_S, "pending": _SETTLED_WITHIN_S}.get(state, 0.0)
            if time.monotonic() - started >= within_s:
                break
            time.sleep(_POLL_S)
        yield judge_state(state)
    except StoreUnavailable as error:
        message = f"whether it is stored cannot be seen from here: {error}"
        yield yellow(_ROOM, "stored", message, "Mend the store, then ask again.")
    finally:
        store.dispose()


def judge_state(state: str | None) -> Finding:
    """Say what became of the event. state: of its delivery in the store here; None where it is not there."""
    if state is None:
        advice = (
            "Set the same DATABASE_URL there as here; or its database is away, and it spools: see the store."
        )
        return red(_ROOM, "stored", "it took the event, which is not in this store", advice)
    if state == "pending":
        message = f"stored, but no worker settled it within {_SETTLED_WITHIN_S:g} s"
        return yellow(_ROOM, "settled", message, "Start: rapidbridge worker. After a backlog, look again.")
    return green(_ROOM, "settled", f"stored, and {state} by a worker")


def _ask_readiness(url: str) -> Iterator[Finding]:
    """Ask the receiver how it sees itself: it may have other settings than we do."""
    parts = urlsplit(url)
    readyz = urlunsplit((parts.scheme, parts.netloc, "/readyz", "", ""))
    try:
        answer = httpx.get(readyz, timeout=_TIMEOUT_S, trust_env=False)
    except httpx.HTTPError:
        return
    told = _json(answer)
    if answer.status_code == 200:
        yield green(_ROOM, "ready", "says that it is ready")
    elif answer.status_code == 503 and told.get("status") == "unready":
        wrong = {name: said for name, said in told.items() if name != "status" and said != "ok"}
        message = "; ".join(printable(f"{name}: {said}") for name, said in wrong.items())
        yield red(
            _ROOM, "ready", f"says that it is not ready: {message}", "Mend what it names, where it runs."
        )


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        return as_object(answer.json())
    except ValueError:
        return {}


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
