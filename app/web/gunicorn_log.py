"""gunicorn's messages in the form of our own log."""

from typing import Any

from gunicorn.glogging import Logger

from app.logs import LibraryLog


class GunicornLog(Logger):  # type: ignore[misc]  # gunicorn is not typed
    """gunicorn's logger, whose messages are events: `gunicorn.message`."""

    def setup(self, cfg: Any) -> None:
        """Replace gunicorn's handler, which prints tracebacks. None is left out: processes start together."""
        super().setup(cfg)
        self.error_log.handlers[:] = [LibraryLog(interval_s=0.0)]
