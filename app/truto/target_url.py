"""Rules for a webhook's target URL, and its form without secrets. Pure."""

import ipaddress
from urllib.parse import SplitResult, urlsplit

WEBHOOK_PATH = "/webhooks/truto"
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan")


def find_target_problem(url: str) -> str | None:
    """Return why Truto cannot deliver to a URL, and the remedy; None if it can."""
    parts = _split_url(url)
    if parts is None or not parts.hostname:
        return f"it is not a URL; use https://<your host>{WEBHOOK_PATH}."
    if parts.scheme != "https":
        return "Truto delivers over HTTPS only; use an https:// URL, or a tunnel's."
    if _is_local(parts.hostname):
        return "Truto cannot reach a local host name; use a public one, or a tunnel's."
    # The receiver takes one slash at the end for a typo.
    if not parts.path.removesuffix("/").endswith(WEBHOOK_PATH):
        return f"the receiver accepts deliveries at {WEBHOOK_PATH}; the URL must end with this path."
    return None


def redact_target_url(url: str) -> str:
    """Return a URL without user, password, query and fragment, safe to print."""
    parts = _split_url(url)
    if parts is None or not parts.hostname:
        return "(not a URL)"
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
        return host == "localhost" or host.endswith(_LOCAL_SUFFIXES) or "." not in host
