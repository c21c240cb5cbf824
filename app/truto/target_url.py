"""Where a webhook may send to, and how addresses are shown. Pure."""

import ipaddress
from urllib.parse import SplitResult, urlsplit

WEBHOOK_PATH = "/webhooks/truto"
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".lan")


def find_target_problem(url: str) -> str | None:
    """Say why Truto cannot deliver to an address; None where nothing is wrong with it."""
    parts = _split_url(url)
    if parts is None or not parts.hostname:
        return f"it is no address: write https://<your host>{WEBHOOK_PATH}."
    if parts.scheme != "https":
        return "Truto delivers over HTTPS only: name an https:// address, or a tunnel's."
    if _is_local(parts.hostname):
        return "Truto cannot reach this machine by that name: name a public address, or a tunnel's."
    if parts.path.rstrip("/") != parts.path or not parts.path.endswith(WEBHOOK_PATH):
        return f"the receiver takes deliveries at {WEBHOOK_PATH}: let the address end so."
    return None


def redact_address(url: str) -> str:
    """Return an address without what may be secret in it: user, password and query."""
    parts = _split_url(url)
    if parts is None or not parts.hostname:
        return "(no address)"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    text = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _split_url(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_local(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith(_LOCAL_NAMES) or "." not in host
