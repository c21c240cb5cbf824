"""Development webhook secret, created by `up` and read by `simulate`."""

from pathlib import Path
from uuid import uuid4

_SECRET_FILE = Path("var") / "webhook-secret"


def ensure_development_secret() -> str:
    """Return the secret in var/webhook-secret; create the file if it does not exist."""
    if not _SECRET_FILE.exists():
        _SECRET_FILE.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _SECRET_FILE.touch(mode=0o600)
        _SECRET_FILE.write_text(str(uuid4()))
    return _SECRET_FILE.read_text().strip()


def read_development_secret() -> str | None:
    """Return the secret in var/webhook-secret; None if `up` has not created it."""
    return _SECRET_FILE.read_text().strip() if _SECRET_FILE.exists() else None
