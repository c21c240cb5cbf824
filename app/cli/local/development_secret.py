"""Development webhook secret, created by `up` and read by `simulate`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from app.errors import ConfigError

_SECRET_FILE = Path("var") / "webhook-secret"


def ensure_development_secret() -> str:
    """Return the secret in var/webhook-secret; create the file if it does not exist. Raises ConfigError."""
    if (secret := read_development_secret()) is not None:
        return secret
    with _translate_errors("created", "Run the command in a folder that you can write"):
        _SECRET_FILE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # O_EXCL: never through a link, and never over the secret of another process.
        descriptor = os.open(_SECRET_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret := str(uuid4()))
    return secret


def read_development_secret() -> str | None:
    """Return the secret in var/webhook-secret; None if `up` has not created it. Raises ConfigError."""
    with _translate_errors("read", "Check its permissions"):
        try:
            secret = _SECRET_FILE.read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
    if not secret:
        raise ConfigError([f"{_SECRET_FILE}: is empty. Remove it with: rm {_SECRET_FILE}"])
    return secret


@contextmanager
def _translate_errors(verb: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        problem = f"{_SECRET_FILE}: cannot be {verb} ({reason}). {advice}, or set TRUTO_WEBHOOK_SECRET."
        raise ConfigError([problem]) from error
