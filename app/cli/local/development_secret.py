"""The secret that `up` makes for development, where none is set, and `simulate` signs with."""

from pathlib import Path
from uuid import uuid4

_FILE = Path("var") / "webhook-secret"


def development_secret() -> str:
    """Return the working folder's secret, made and kept in var/webhook-secret on first use."""
    if not _FILE.exists():
        _FILE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _FILE.touch(mode=0o600)
        _FILE.write_text(str(uuid4()))
    return _FILE.read_text().strip()


def known_development_secret() -> str | None:
    """Return the secret if `up` has made one here."""
    return _FILE.read_text().strip() if _FILE.exists() else None
