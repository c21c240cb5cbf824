"""Truto's HTTP API, as far as it is about sync job runs, their logs and webhooks."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from app.errors import TrutoRefused
from app.truto.client import TrutoClient
from app.truto.coerce import as_text
from app.truto.run_log import LogEntry, read_log_entry, split_time_range
from app.truto.runs import SyncJobRun, read_run
from app.truto.webhooks import Webhook, read_webhook

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
