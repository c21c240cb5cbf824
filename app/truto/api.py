"""Truto's HTTP API, as far as it is about sync job runs, their logs and webhooks."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from app.errors import TrutoRefused
from app.truto.client import Client
from app.truto.coerce import as_text
from app.truto.run_log import LogEntry, read_entry, windows
from app.truto.runs import SyncJobRun, read_run
from app.truto.webhooks import Webhook, read_webhook

_RUNS = "/sync-job-run"
_WEBHOOKS = "/webhook"
_LOG = "/log"
_PAGE = 100


class TrutoApi:
    """Every method raises TrutoRefused and TrutoUnavailable, as `Client.ask` does.

    Source: docs/protocol.md, "The API".
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def get_run(self, run_id: str) -> SyncJobRun:
        """Return a sync job run as it stands."""
        return _run(self._client.ask("GET", _path(_RUNS, run_id)))

    def stop_run(self, run_id: str) -> SyncJobRun:
        """Stop a sync job run; returns it as it stands then."""
        return _run(self._client.ask("DELETE", _path(_RUNS, run_id)))

    def start_run(self, told: Mapping[str, Any]) -> SyncJobRun:
        """Start a sync job run. told: sync_job_id, integrated_account_id, webhook_id, args, and so on."""
        return _run(self._client.ask("POST", _RUNS, json=dict(told)))

    def list_runs(self, filters: Mapping[str, str]) -> Iterator[SyncJobRun]:
        """Yield runs, a page at a time as they are asked for. filters: by sync_job_id, status, and so on."""
        yield from filter(None, map(read_run, self._list(_RUNS, filters)))

    def read_log(self, run_id: str, *, since: datetime, until: datetime) -> Iterator[LogEntry]:
        """Yield what was logged of a run after `since` and before `until`, both aware."""
        about = {"log_type": "rapid_bridge", "log_type_filter[sync_job_run_id]": run_id}
        for after, before in windows(since, until):
            told = {**about, "created_at[gt]": after, "created_at[lt]": before}
            yield from filter(None, map(read_entry, self._list(_LOG, told)))

    def get_webhook(self, webhook_id: str) -> Webhook:
        """Return a webhook as it stands."""
        return _webhook(self._client.ask("GET", _path(_WEBHOOKS, webhook_id)))

    def create_webhook(self, target_url: str, event_types: Sequence[str]) -> Webhook:
        """Create an active webhook; only this answer ever holds its secret. target_url: https://…"""
        told = {"target_url": target_url, "is_active": True, "event_types": list(event_types)}
        return _webhook(self._client.ask("POST", _WEBHOOKS, json=told))

    def activate_webhook(self, webhook_id: str) -> Webhook:
        """Switch a webhook on again that Truto has switched off."""
        return _webhook(self._client.ask("PATCH", _path(_WEBHOOKS, webhook_id), json={"is_active": True}))

    def test_webhook(self, webhook_id: str) -> bool:
        """Have Truto send a `test` event; return whether it says that the receiver took it.

        Where the receiver did not, TrutoRefused may come instead of False: unconfirmed.
        """
        return self._client.ask("POST", f"{_WEBHOOKS}/test", json={"id": webhook_id}).get("success") is True

    def _list(self, path: str, filters: Mapping[str, str]) -> Iterator[Any]:
        cursor, seen = "", set[str]()
        while True:
            told = {**filters, "limit": str(_PAGE), **({"next_cursor": cursor} if cursor else {})}
            answer = self._client.ask("GET", path, params=told)
            # Truto's documentation calls it `results`, its own examples `result`.
            found = answer.get("results", answer.get("result"))
            yield from found if isinstance(found, list) else ()
            cursor = as_text(answer.get("next_cursor"))
            # One that comes again would lead round in circles.
            if not cursor or cursor in seen:
                return
            seen.add(cursor)


def _path(kind: str, id_: str) -> str:
    return f"{kind}/{quote(id_, safe='')}"


def _run(answer: Mapping[str, Any]) -> SyncJobRun:
    run = read_run(answer)
    if run is None:
        raise TrutoRefused(200, "Truto's API answered with an object that is no sync job run: it has no id")
    return run


def _webhook(answer: Mapping[str, Any]) -> Webhook:
    webhook = read_webhook(answer)
    if webhook is None:
        raise TrutoRefused(200, "Truto's API answered with an object that is no webhook: it has no id")
    return webhook
