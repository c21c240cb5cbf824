"""The configuration of a process with the routes file as it is now."""

import threading
import time
from dataclasses import replace

import structlog

from app.config.load import Config, find_routes_file, read_config, read_routes_text
from app.config.settings import read_environment
from app.errors import ConfigError, RoutesRefused
from app.logs import FaultLog, locate_error

_INTERVAL_S = 1.0

log = structlog.get_logger()


class CurrentConfig:
    """Takes over a changed routes file, once two readings of it agree.

    The beginning of a file that is being written may be valid too, without the rules that refuse runs. While
    the file is missing or not valid, the last valid routes stay. The settings, and so the secrets, are those
    that the process started with.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._last_text = config.routes_text
        self._fault = FaultLog("routes.refused", "routes.accepted", logs_changes=True)

    def get(self) -> Config:
        """Return the settings with the current routes, without reading the file."""
        return self._config

    @property
    def has_fault(self) -> bool:
        """Whether the file could not be taken over at the last reading."""
        return bool(self._fault)

    def start(self) -> None:
        """Read the file every second in a thread; call this in the process that serves, after the fork."""
        threading.Thread(target=self._repeat, name="routes file", daemon=True).start()

    def refresh(self) -> bool:
        """Read the file once, and return whether the routes have changed; raises RoutesRefused."""
        try:
            path = find_routes_file(read_environment())
            if path is None and not self._config.routes_file:
                return False
            if path is None:
                raise ConfigError([f"{self._config.routes_file}: the file is missing."])
            text = read_routes_text(path)
            if text == self._config.routes_text:
                self._last_text = text
                return False
            is_stable, self._last_text = text == self._last_text, text
            config = read_config()
        except ConfigError as error:
            raise RoutesRefused(
                f"the previous routes stay in use: {' '.join(error.problems)} "
                "Correct the file, then run: rapidbridge routes check"
            ) from error
        if not is_stable or config.routes_text != text:
            return False
        self._config = replace(config, settings=self._config.settings)
        return True

    def _repeat(self) -> None:
        while True:
            time.sleep(_INTERVAL_S)
            try:
                if self.refresh():
                    log.info("routes.changed", routes_file=self._config.routes_file)
            except RoutesRefused as error:
                self._fault.add(str(error))
            except Exception as error:  # noqa: BLE001  # an ended thread would never read the file again
                self._fault.add(f"{type(error).__name__} at {locate_error(error)}")
            else:
                self._fault.end()
