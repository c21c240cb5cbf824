"""The secret that `up` makes for development, where none is set, and `simulate` signs with."""

from pathlib import Path
from uuid import uuid4

_SECRET_FILE = Path("var") / "webhook-secret"


def ensure_development_secret() -> str:
    """Return the working folder's secret, made and kept in var/webhook-secret on first use."""
    if not _SECRET_FILE.exists():
        _SECRET_FILE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _SECRET_FILE.touch(mode=0o600)
        _SECRET_FILE.write_text(str(uuid4()))
    return _SECRET_FILE.read_text().strip()


def read_development_secret() -> str | None:
    """Return the secret if `up` has made one here."""
    return _SECRET_FILE.read_text().strip() if _SECRET_FILE.exists() else None
