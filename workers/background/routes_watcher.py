"""Watcher of the routes file, whose changes restart the workers."""

from app.config.load import Config, find_routes_file, read_config, read_routes_text
from app.config.settings import read_environment
from app.errors import ConfigError, RoutesRefused
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0


class RoutesWatcher(PeriodicTask):
    """Reads the routes file every second; a changed file that is not valid is a fault of the task.

    changed_text: the text of a valid file that differs from the one in use, as soon as two readings agree:
    the beginning of a file that is being written may be valid too. None while there is none.
    """

    def __init__(self, config: Config) -> None:
        super().__init__("routes-watcher", interval_s=_INTERVAL_S)
        self.changed_text: str | None = None
        self._config = config
        self._last_text = config.routes_text

    def run_once(self) -> None:
        """Compare the file with the routes in use."""
        self.run_step("routes file", self._compare)

    def _compare(self) -> None:
        """Raise RoutesRefused if the workers keep routes that are not those of the file."""
        try:
            path = find_routes_file(read_environment())
            if path is None and not self._config.routes_file:
                return
            if path is None:
                raise ConfigError([f"{self._config.routes_file}: the file is missing."])
            text = read_routes_text(path)
            if text == self._config.routes_text:
                return
            is_stable, self._last_text = text == self._last_text, text
            config = read_config()
        except ConfigError as error:
            raise RoutesRefused(
                f"the workers keep the routes that they have: {' '.join(error.problems)} "
                "Correct the file, then run: rapidbridge routes check"
            ) from error
        if is_stable and config.routes_text == text:
            self.changed_text = text
