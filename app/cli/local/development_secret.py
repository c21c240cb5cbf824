"""Development secrets, created by `up`: of the webhook, which `simulate` reads, and of the dashboard."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from app.errors import ConfigError

_FOLDER = Path("var")


@dataclass(frozen=True, slots=True)
class DevelopmentSecret:
    """A secret in a file, for an installation without this setting."""

    path: Path
    setting: str

    def ensure(self) -> str:
        """Return the secret; create the file if it does not exist. Raises ConfigError."""
        if (secret := self.read()) is not None:
            return secret
        with self._translate_errors("created", "Run the command in a folder that you can write"):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # O_EXCL: never through a link, and never over the secret of another process.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secret := str(uuid4()))
        return secret

    def read(self) -> str | None:
        """Return the secret; None if `up` has not created it. Raises ConfigError."""
        with self._translate_errors("read", "Check its permissions"):
            try:
                secret = self.path.read_text(encoding="ascii").strip()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not secret:
            raise ConfigError([f"{self.path}: is empty. Remove it with: rm {self.path}"])
        return secret

    @contextmanager
    def _translate_errors(self, verb: str, advice: str) -> Iterator[None]:
        try:
            yield
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not ASCII text"
            problem = f"{self.path}: cannot be {verb} ({reason}). {advice}, or set {self.setting}."
            raise ConfigError([problem]) from error


WEBHOOK_SECRET = DevelopmentSecret(_FOLDER / "webhook-secret", "TRUTO_WEBHOOK_SECRET")
DASHBOARD_SECRET = DevelopmentSecret(_FOLDER / "dashboard-password", "DASHBOARD_PASSWORD")
