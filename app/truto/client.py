"""One request to Truto's API: asked, asked again where that is safe, and what its answer means."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from app.backoff import compute_backoff_s, parse_retry_after_s
from app.clock import utc_now
from app.errors import TrutoRefused, TrutoUnavailable
from app.truto.coerce import as_text
from app.truto.run_log import LogEntry, read_log_entry, split_time_range
from app.truto.runs import SyncJobRun, read_run
from app.truto.webhooks import Webhook, read_webhook

_TIMEOUT_S = 20.0
_MAX_RETRIES = 3
_FIRST_BACKOFF_S = 0.5
_JITTER = (1.0, 1.5)
# Truto asks for 10 s. Whoever is asked for more gets an error to act on, not a command that seems to hang.
_MAX_WAIT_S = 30.0
# Done twice is as good as once: asked again also where it may have been done although no answer came.
# A PATCH sets members to values.
_IDEMPOTENT_METHODS = frozenset({"GET", "DELETE", "PATCH"})
_MAX_MESSAGE_CHARS = 200
_STATUS_HINTS = {
    400: "it does not take what it was asked",
    401: "it does not know the token: set TRUTO_API_TOKEN to a valid one",
    403: "the token may not do that: use one of the right environment",
    404: "it knows nothing of that id, or this token may not see it",
    405: "it does not allow that here; sandbox accounts are read-only",
    409: "it is busy with a change that this one contradicts",
    422: "it does not take what it was asked",
    429: "it was asked too often; wait a little",
    503: "it takes nothing at the moment, or the account is blocked",
}


class TrutoClient:
    """Asks Truto's API; a context manager. The token is in no error and in no log."""

    def __init__(self, url: str, token: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._sleep = sleep
        self._token = token
        headers = {"Authorization": f"Bearer {token}", "User-Agent": "rapidbridge-receiver"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Return the object that the API answers with. options: `params` or `json`, as httpx takes them.

        Raises TrutoRefused where asking again is of no use, else TrutoUnavailable, after three more attempts
        where they are safe.
        """
        for attempt in range(_MAX_RETRIES + 1):
            try:
                return self._request_once(method, path, **options)
            except TrutoUnavailable as error:
                wait_s = error.retry_after_s
                if wait_s is None:
                    wait_s = compute_backoff_s(
                        attempt + 1, base_s=_FIRST_BACKOFF_S, max_s=_MAX_WAIT_S, jitter=_JITTER
                    )
                is_safe = error.was_not_processed or method in _IDEMPOTENT_METHODS
                if attempt == _MAX_RETRIES or not is_safe or wait_s > _MAX_WAIT_S:
                    raise
            self._sleep(wait_s)
        raise AssertionError("unreachable")

    def _request_once(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, **options)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            message = f"{self._api_name} cannot be reached: is TRUTO_API_URL right, and the network up?"
            raise TrutoUnavailable(message, was_not_processed=True) from error
        except httpx.TimeoutException as error:
            raise TrutoUnavailable(f"{self._api_name} did not answer within {_TIMEOUT_S:g} s") from error
        except httpx.HTTPError as error:
            message = f"the connection to {self._api_name} broke ({type(error).__name__})"
            raise TrutoUnavailable(message) from error
        answer = _decode_object(response)
        if response.is_success and answer is not None:
            return answer
        raise self._build_error(response, answer)

    @property
    def _api_name(self) -> str:
        return f"Truto's API at {self._http.base_url.host}"

    def _build_error(self, response: httpx.Response, answer: dict[str, Any] | None) -> Exception:
        status = response.status_code
        if answer is None and status < 400:
            return TrutoRefused(
                status, f"{self._api_name} answered {status} without a JSON object: is TRUTO_API_URL right?"
            )
        message = f"{self._api_name} answered {status}: {_STATUS_HINTS.get(status, 'it failed')}"
        is_remote = (answer or {}).get("truto_is_remote_error") is True
        # What a customer's SaaS says may quote records; what Truto says is about the request.
        if not is_remote and (message_text := _read_error_message(answer).replace(self._token or "\n", "…")):
            message += f" ({message_text})"
        retry_after_s = parse_retry_after_s(response.headers.get("Retry-After", ""), now=utc_now())
        if status == 429:
            return TrutoUnavailable(message, was_not_processed=True, retry_after_s=retry_after_s)
        if status >= 500 and not is_remote:
            return TrutoUnavailable(message, retry_after_s=retry_after_s)
        return TrutoRefused(status, message)


def _decode_object(response: httpx.Response) -> dict[str, Any] | None:
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _read_error_message(answer: dict[str, Any] | None) -> str:
    message = (answer or {}).get("message")
    text = (
        "".join(character for character in message if character.isprintable())
        if isinstance(message, str)
        else ""
    )
    return text if len(text) <= _MAX_MESSAGE_CHARS else text[:_MAX_MESSAGE_CHARS] + "…"


_RUNS_PATH = "/sync-job-run"
_WEBHOOKS_PATH = "/webhook"
_LOG_PATH = "/log"
_PAGE_SIZE = 100


class TrutoApi:
    """Every method raises TrutoRefused and TrutoUnavailable, as `Client.ask` does.

    Source: docs/protocol.md, "The API".
    """

    def __init__(self, client: TrutoClient) -> None:
        self._client = client

    def get_run(self, run_id: str) -> SyncJobRun:
        """Return a sync job run as it stands."""
        return _require_run(self._client.request("GET", _build_path(_RUNS_PATH, run_id)))

    def stop_run(self, run_id: str) -> SyncJobRun:
        """Stop a sync job run; returns it as it stands then."""
        return _require_run(self._client.request("DELETE", _build_path(_RUNS_PATH, run_id)))

    def start_run(self, request_body: Mapping[str, Any]) -> SyncJobRun:
        """Start a sync job run. told: sync_job_id, integrated_account_id, webhook_id, args, and so on."""
        return _require_run(self._client.request("POST", _RUNS_PATH, json=dict(request_body)))

    def list_runs(self, filters: Mapping[str, str]) -> Iterator[SyncJobRun]:
        """Yield runs, a page at a time as they are asked for. filters: by sync_job_id, status, and so on."""
        yield from filter(None, map(read_run, self._list_items(_RUNS_PATH, filters)))

    def read_log(self, run_id: str, *, since: datetime, until: datetime) -> Iterator[LogEntry]:
        """Yield what was logged of a run after `since` and before `until`, both aware."""
        about = {"log_type": "rapid_bridge", "log_type_filter[sync_job_run_id]": run_id}
        for after, before in split_time_range(since, until):
            filters = {**about, "created_at[gt]": after, "created_at[lt]": before}
            yield from filter(None, map(read_log_entry, self._list_items(_LOG_PATH, filters)))

    def get_webhook(self, webhook_id: str) -> Webhook:
        """Return a webhook as it stands."""
        return _require_webhook(self._client.request("GET", _build_path(_WEBHOOKS_PATH, webhook_id)))

    def create_webhook(self, target_url: str, event_types: Sequence[str]) -> Webhook:
        """Create an active webhook; only this answer ever holds its secret. target_url: https://…"""
        request_body = {"target_url": target_url, "is_active": True, "event_types": list(event_types)}
        return _require_webhook(self._client.request("POST", _WEBHOOKS_PATH, json=request_body))

    def activate_webhook(self, webhook_id: str) -> Webhook:
        """Switch a webhook on again that Truto has switched off."""
        return _require_webhook(
            self._client.request("PATCH", _build_path(_WEBHOOKS_PATH, webhook_id), json={"is_active": True})
        )

    def test_webhook(self, webhook_id: str) -> bool:
        """Have Truto send a `test` event; return whether it says that the receiver took it.

        Where the receiver did not, TrutoRefused may come instead of False: unconfirmed.
        """
        return (
            self._client.request("POST", f"{_WEBHOOKS_PATH}/test", json={"id": webhook_id}).get("success")
            is True
        )

    def _list_items(self, path: str, filters: Mapping[str, str]) -> Iterator[Any]:
        cursor, seen = "", set[str]()
        while True:
            params = {**filters, "limit": str(_PAGE_SIZE), **({"next_cursor": cursor} if cursor else {})}
            answer = self._client.request("GET", path, params=params)
            # Truto's documentation calls it `results`, its own examples `result`.
            page_items = answer.get("results", answer.get("result"))
            yield from page_items if isinstance(page_items, list) else ()
            cursor = as_text(answer.get("next_cursor"))
            # One that comes again would lead round in circles.
            if not cursor or cursor in seen:
                return
            seen.add(cursor)


def _build_path(kind: str, id_: str) -> str:
    return f"{kind}/{quote(id_, safe='')}"


def _require_run(answer: Mapping[str, Any]) -> SyncJobRun:
    run = read_run(answer)
    if run is None:
        raise TrutoRefused(200, "Truto's API answered with an object that is no sync job run: it has no id")
    return run


def _require_webhook(answer: Mapping[str, Any]) -> Webhook:
    webhook = read_webhook(answer)
    if webhook is None:
        raise TrutoRefused(200, "Truto's API answered with an object that is no webhook: it has no id")
    return webhook
