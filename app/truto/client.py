"""Client of Truto's HTTP API, with retries."""

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
from app.http_client import PrivateAddress, ResponseTooLarge, open_http_client, send
from app.truto.coerce import as_text
from app.truto.json_reader import read_object
from app.truto.run_log import LogEntry, read_log_entry, split_time_range
from app.truto.runs import SyncJobRun, read_run
from app.truto.webhooks import Webhook, read_webhook

_RUNS_PATH = "/sync-job-run"
_WEBHOOKS_PATH = "/webhook"
_LOG_PATH = "/log"
_PAGE_SIZE = 100

# Of one request, its response included.
_TIMEOUT_S = 20.0
# A page of 100 runs or log entries has a few hundred kilobytes.
_MAX_RESPONSE_BYTES = 8 * 1024 * 1024
# A list that never ends must not keep a command or the monitor.
_MAX_PAGES = 10_000
_MAX_LIST_S = 600.0
_MAX_CURSOR_CHARS = 4096
_MAX_RETRIES = 3
_FIRST_BACKOFF_S = 0.5
_JITTER = (1.0, 1.5)
# Truto usually requests 10 s. A longer wait raises an error, so that a command never seems to hang.
_MAX_WAIT_S = 30.0
# These may be repeated after an unknown result. PATCH is among them: Truto's only sets members to values.
_IDEMPOTENT_METHODS = frozenset({"GET", "DELETE", "PATCH"})

_MAX_MESSAGE_CHARS = 200
_STATUS_HINTS = {
    400: "the request is invalid",
    401: "the token is invalid; set TRUTO_API_TOKEN to a valid API token",
    403: "the token may not do this; use an API token of the right environment",
    404: "no object has this id, or the token may not read it",
    405: "the operation is not allowed; sandbox accounts are read-only",
    409: "another change is in progress and conflicts with this one; try again later",
    422: "the request is invalid",
    429: "too many requests; try again later",
    503: "Truto is temporarily unavailable, or the account is blocked",
}


class TrutoClient:
    """Truto's API, one method for each operation. A context manager, which closes the connections.

    Every method raises TrutoRefused and TrutoUnavailable; see `request`. No error and no log holds the token.
    Source: docs/protocol.md, "The API".
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        sleep: Callable[[float], None] = time.sleep,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._sleep = sleep
        self._timeout_s = timeout_s
        self._token = token
        headers = {"Authorization": f"Bearer {token}", "User-Agent": "rapidbridge-receiver"}
        self._http = open_http_client(allow_private=True, base_url=url, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get_run(self, run_id: str) -> SyncJobRun:
        """Return the current state of a sync job run."""
        return _require_run(self.request("GET", _build_path(_RUNS_PATH, run_id)))

    def stop_run(self, run_id: str) -> SyncJobRun:
        """Stop a sync job run; return its state after that."""
        return _require_run(self.request("DELETE", _build_path(_RUNS_PATH, run_id)))

    def start_run(self, run_options: Mapping[str, Any]) -> SyncJobRun:
        """Start a sync job run.

        run_options: the request's body: sync_job_id, integrated_account_id, webhook_id, args, and so on.
        """
        return _require_run(self.request("POST", _RUNS_PATH, json=dict(run_options)))

    def list_runs(self, filters: Mapping[str, str]) -> Iterator[SyncJobRun]:
        """Yield sync job runs; a page is requested when it is needed. filters: sync_job_id, status, …"""
        yield from filter(None, map(read_run, self._list_items(_RUNS_PATH, filters)))

    def read_log(self, run_id: str, *, since: datetime, until: datetime) -> Iterator[LogEntry]:
        """Yield the log entries of a run between `since` and `until`, both aware and exclusive.

        run_id: "" for all runs.
        """
        run_filter = {"log_type": "rapid_bridge"}
        if run_id:
            run_filter["log_type_filter[sync_job_run_id]"] = run_id
        for after, before in split_time_range(since, until):
            filters = {**run_filter, "created_at[gt]": after, "created_at[lt]": before}
            yield from filter(None, map(read_log_entry, self._list_items(_LOG_PATH, filters)))

    def get_webhook(self, webhook_id: str) -> Webhook:
        """Return the current state of a webhook."""
        return _require_webhook(self.request("GET", _build_path(_WEBHOOKS_PATH, webhook_id)))

    def create_webhook(self, target_url: str, event_types: Sequence[str]) -> Webhook:
        """Create an active webhook; Truto returns its secret in this response only. target_url: https://…"""
        webhook = {"target_url": target_url, "is_active": True, "event_types": list(event_types)}
        return _require_webhook(self.request("POST", _WEBHOOKS_PATH, json=webhook))

    def activate_webhook(self, webhook_id: str) -> Webhook:
        """Activate a webhook that Truto has deactivated."""
        path = _build_path(_WEBHOOKS_PATH, webhook_id)
        return _require_webhook(self.request("PATCH", path, json={"is_active": True}))

    def test_webhook(self, webhook_id: str, parameters: Mapping[str, Any] | None = None) -> bool:
        """Make Truto send a `test` event; return whether it reports that the receiver accepted the event.

        parameters: members of the request that choose another event; their names are unconfirmed. Truto may
        raise TrutoRefused instead of returning False: unconfirmed.
        """
        request = {"id": webhook_id, **(parameters or {})}
        answer = self.request("POST", f"{_WEBHOOKS_PATH}/test", json=request)
        return answer.get("success") is True

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send one request and return the JSON object of the response. options: httpx's `params` or `json`.

        Raises TrutoRefused if a retry cannot help, else TrutoUnavailable, after up to three retries.
        A request that Truto may have processed is retried only if its method is idempotent.
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
            response = send(
                self._http,
                method,
                path,
                timeout_s=self._timeout_s,
                max_bytes=_MAX_RESPONSE_BYTES,
                **options,
            )
        except PrivateAddress as error:
            message = f"{self._api_name} {error} in TRUTO_API_URL"
            raise TrutoUnavailable(message, was_not_processed=True) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            message = f"{self._api_name} cannot be reached; check TRUTO_API_URL and the network"
            raise TrutoUnavailable(message, was_not_processed=True) from error
        except httpx.TimeoutException as error:
            raise TrutoUnavailable(f"{self._api_name} did not answer within {self._timeout_s:g} s") from error
        except ResponseTooLarge as error:
            if error.response.is_error:
                # The status decides whether a retry can help.
                raise self._build_error(error.response, None) from error
            message = f"{self._api_name} cannot be read: {error}; check TRUTO_API_URL"
            raise TrutoRefused(error.http_status, message) from error
        except httpx.HTTPError as error:
            message = f"the connection to {self._api_name} broke ({type(error).__name__})"
            raise TrutoUnavailable(message) from error
        answer = read_object(response.content)
        if response.is_success and answer is not None:
            return answer
        raise self._build_error(response, answer)

    def _list_items(self, path: str, filters: Mapping[str, str]) -> Iterator[Any]:
        cursor, used_cursors = "", set[str]()
        deadline = time.monotonic() + _MAX_LIST_S
        while True:
            params = {**filters, "limit": str(_PAGE_SIZE), **({"next_cursor": cursor} if cursor else {})}
            answer = self.request("GET", path, params=params)
            # Truto's documentation names the list `results`, its own examples `result`.
            page_items = answer.get("results", answer.get("result"))
            yield from page_items if isinstance(page_items, list) else ()
            cursor = as_text(answer.get("next_cursor"))
            if not cursor:
                return
            # An incomplete list must not look complete.
            if cursor in used_cursors or len(cursor) > _MAX_CURSOR_CHARS:
                raise TrutoUnavailable(f"{self._api_name} repeated a page of {path}; try again later")
            used_cursors.add(cursor)
            if len(used_cursors) >= _MAX_PAGES or time.monotonic() > deadline:
                raise TrutoUnavailable(
                    f"{self._api_name} has too many pages of {path}: stopped after {len(used_cursors):,}; "
                    "name single runs instead"
                )

    @property
    def _api_name(self) -> str:
        return f"Truto's API at {self._http.base_url.host}"

    def _build_error(
        self, response: httpx.Response, answer: dict[str, Any] | None
    ) -> TrutoRefused | TrutoUnavailable:
        status = response.status_code
        if answer is None and status < 400:
            message = f"{self._api_name} answered {status} without a JSON object; check TRUTO_API_URL"
            return TrutoRefused(status, message)
        message = f"{self._api_name} answered {status}: {_STATUS_HINTS.get(status, 'the request failed')}"
        is_remote = (answer or {}).get("truto_is_remote_error") is True
        # A message of the customer's SaaS may quote records; a message of Truto's is about the request.
        if not is_remote and (message_text := self._read_error_message(answer)):
            message += f" ({message_text})"
        retry_after_s = parse_retry_after_s(response.headers.get("Retry-After", ""), now=utc_now())
        if status == 429:
            return TrutoUnavailable(message, was_not_processed=True, retry_after_s=retry_after_s)
        if status >= 500 and not is_remote:
            return TrutoUnavailable(message, retry_after_s=retry_after_s)
        return TrutoRefused(status, message)

    def _read_error_message(self, answer: dict[str, Any] | None) -> str:
        message = (answer or {}).get("message")
        if not isinstance(message, str):
            return ""
        text = "".join(character for character in message if character.isprintable())
        # Before the cut, which would leave a part of the token.
        text = text.replace(self._token or "\n", "…")
        return text if len(text) <= _MAX_MESSAGE_CHARS else text[:_MAX_MESSAGE_CHARS] + "…"


def _build_path(collection_path: str, id_: str) -> str:
    return f"{collection_path}/{quote(id_, safe='')}"


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
