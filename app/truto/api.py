"""Truto's HTTP API, as far as it is about sync job runs."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from app.errors import TrutoRefused
from app.truto.client import Client
from app.truto.fields import as_text
from app.truto.runs import SyncJobRun, read_run

_RUNS = "/sync-job-run"
_PAGE = 100


class TrutoApi:
    """Every method raises TrutoRefused and TrutoUnavailable, as `Client.ask` does.

    Source: docs/protocol.md, "The API".
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def get_run(self, run_id: str) -> SyncJobRun:
        """Return a sync job run as it stands."""
        return _run(self._client.ask("GET", _path(run_id)))

    def stop_run(self, run_id: str) -> SyncJobRun:
        """Stop a sync job run; returns it as it stands then."""
        return _run(self._client.ask("DELETE", _path(run_id)))

    def start_run(self, told: Mapping[str, Any]) -> SyncJobRun:
        """Start a sync job run. told: sync_job_id, integrated_account_id, webhook_id, args, and so on."""
        return _run(self._client.ask("POST", _RUNS, json=dict(told)))

    def list_runs(self, filters: Mapping[str, str]) -> Iterator[SyncJobRun]:
        """Yield runs, a page at a time as they are asked for. filters: by sync_job_id, status, and so on."""
        cursor, seen = "", set[str]()
        while True:
            told = {**filters, "limit": str(_PAGE), **({"next_cursor": cursor} if cursor else {})}
            answer = self._client.ask("GET", _RUNS, params=told)
            # Truto's documentation calls it `results`, its own examples `result`.
            found = answer.get("results", answer.get("result"))
            yield from filter(None, map(read_run, found if isinstance(found, list) else ()))
            cursor = as_text(answer.get("next_cursor"))
            # One that comes again would lead round in circles.
            if not cursor or cursor in seen:
                return
            seen.add(cursor)


def _path(run_id: str) -> str:
    return f"{_RUNS}/{quote(run_id, safe='')}"


def _run(answer: Mapping[str, Any]) -> SyncJobRun:
    run = read_run(answer)
    if run is None:
        raise TrutoRefused(200, "Truto's API answered with an object that is no sync job run: it has no id")
    return run
