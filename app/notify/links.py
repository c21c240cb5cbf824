"""Links from notifications to the pages of the dashboard."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

# Kinds whose condition a page shows better than the overview.
_PAGES = {
    "sink.failing": "/sinks",
    "sink.recovered": "/sinks",
    "delivery.delayed": "/deliveries?state=pending",
    "account.unknown": "/failed?reason=no_account",
}


def build_link(public_url: str, kind: str, payload: Mapping[str, Any]) -> str:
    """Return the address of the page about a notification; "" without PUBLIC_URL."""
    return public_url + _find_page(kind, payload) if public_url else ""


def _find_page(kind: str, payload: Mapping[str, Any]) -> str:
    if run := payload.get("sync_job_run_id"):
        return f"/runs/{quote(str(run), safe='')}"
    if delivery := payload.get("delivery"):
        return f"/deliveries/{quote(str(delivery), safe='')}"
    if kind == "delivery.failed":
        return "/failed?" + urlencode({"reason": str(payload.get("reason", ""))})
    return _PAGES.get(kind, "/overview")
