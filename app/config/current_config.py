"""The configuration of a process with the routes file as it is now."""

import threading
import time
from dataclasses import replace
from pathlib import Path

from app.config.load import Config, read_config, read_routes_text
from app.errors import ConfigError

_INTERVAL_S = 1.0


class CurrentConfig:
    """Reads the routes file again when it has changed, as workers do.

    While the file is not valid, the last valid routes stay: the workers report it. The settings are those
    that the process started with.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._read_at_s = time.monotonic()

    def get(self) -> Config:
        """Return the settings with the current routes; reads the file every second at most."""
        with self._lock:
            if self._config.routes_file and time.monotonic() - self._read_at_s >= _INTERVAL_S:
                self._read_at_s = time.monotonic()
                self._config = self._read()
            return self._config

    def _read(self) -> Config:
        try:
            if read_routes_text(Path(self._config.routes_file)) == self._config.routes_text:
                return self._config
            config = read_config()
        except ConfigError:
            return self._config
        return replace(config, settings=self._config.settings)
