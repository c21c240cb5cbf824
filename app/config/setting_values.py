"""Values of settings: removal of their surroundings, and checks of single ones. Pure.

A check raises ValueError with a clause about the value.
"""

import base64
import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from app.encryption import KEY_BYTES, OFF, EncryptionKey, Keyring
from app.plural import format_count

# A century: the upper bound of durations, so that every sum of times fits its type.
MAX_DAYS = 36500
# Spaces, line breaks and invisible characters that surround a value copied from a page or a file.
_SURROUNDING = " \t\r\n\v\f\x85\xa0\u2028\u2029\u200b\u200c\u200d\u2060\ufeff"
# Anyone on the internet may try passwords, a few a second.
_MIN_PASSWORD_CHARS = 12
_RANDOM_TEXT_COMMAND = "python3 -c 'import secrets; print(secrets.token_urlsafe(18))'"
# Many set MAINTENANCE like a flag: Truto must not receive the word "true" as a reason.
_OFF_WORDS = ("0", "false", "off", "no", "n", "f", "none", "null", "disabled")
_ON_WORDS = ("1", "true", "on", "yes", "y", "t", "enabled")
DEFAULT_MAINTENANCE = "the receiver is in maintenance"


def clean_values(variables: Mapping[str, str], setting_names: Collection[str]) -> dict[str, str]:
    """Return the variables that are not empty, without the spaces and line breaks around them.

    A setting loses its quotation marks too: `docker run --env-file` passes them on.
    """
    cleaned = {}
    for name, text in variables.items():
        value = text.strip(_SURROUNDING)
        if name in setting_names and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1].strip(_SURROUNDING)
        # Platforms pass an unset variable as an empty one.
        if value:
            cleaned[name] = value
    return cleaned


def check_token(token: str) -> str:
    """Return a token of Truto's API. No message quotes it."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("contains characters that no token has; copy the token from Truto again")
    return token


def check_api_url(url: str) -> str:
    """Return the address of Truto's API."""
    try:
        parts = urlsplit(url)
        is_address = bool(parts.hostname) and parts.port != 0 and " " not in url
    except ValueError:
        is_address = False
    if not re.match("https?://", url):
        raise ValueError("does not start with https://; set the URL of Truto's API, or unset TRUTO_API_URL")
    if not is_address:
        raise ValueError("has no valid host or port; set the URL of Truto's API, or unset TRUTO_API_URL")
    return url


def check_password(password: str) -> str:
    """Return a password of the dashboard. No message quotes it."""
    if len(password) < _MIN_PASSWORD_CHARS:
        raise ValueError(
            f"has {format_count(len(password), 'character')}, and needs {_MIN_PASSWORD_CHARS}; "
            f"make one: {_RANDOM_TEXT_COMMAND}"
        )
    return password


def check_metrics_token(token: str) -> str:
    """Return the token that protects /metrics. No message quotes it."""
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError(f"contains characters that no HTTP header has; make a token: {_RANDOM_TEXT_COMMAND}")
    return token


def check_public_url(url: str) -> str:
    """Return the address of the dashboard without a slash at its end."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or " " in url or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("not the address of a site; write one such as https://rapidbridge.example.com")
    return url.rstrip("/")


def check_namespace(name: str) -> str:
    """Return a namespace of keys in Redis."""
    if not re.fullmatch(r"(?!unnamed$)[A-Za-z0-9_.-]{1,64}", name):
        raise ValueError(
            'contains other characters than letters, digits, "_", "." and "-", '
            'is longer than 64 characters, or is the reserved word "unnamed"'
        )
    return name


def parse_maintenance(text: str) -> str:
    """Return the reason to refuse every run; "" for a word that means no."""
    word = text.lower()
    if word in _OFF_WORDS:
        return ""
    return DEFAULT_MAINTENANCE if word in _ON_WORDS else text


def parse_encryption_keys(text: object) -> object:
    """Return a setting's keys, the first of which encrypts; `off` instead of it encrypts nothing."""
    if not isinstance(text, str):
        return text
    entries = [entry.strip() for entry in text.split(",")]
    is_off = entries[0].lower() == OFF
    keys = [_parse_key(entry, number) for number, entry in enumerate(entries, start=1) if number > is_off]
    if len({key.id for key in keys}) < len(keys):
        raise ValueError("has a key twice; remove one of them")
    return Keyring(tuple(keys), is_off=is_off)


def _parse_key(entry: str, number: int) -> EncryptionKey:
    try:
        secret = base64.b64decode(entry.translate(str.maketrans("-_", "+/")), validate=True)
    except ValueError:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ValueError(
            f"entry {number} is not a key: base64 of {KEY_BYTES} bytes, 44 characters; "
            "`rapidbridge keys generate` makes one"
        )
    return EncryptionKey.build(secret)
