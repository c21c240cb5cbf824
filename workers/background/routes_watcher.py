"""Watcher of the routes file, whose changes restart the workers."""

from app.config.current_config import CurrentConfig
from app.config.load import Config
from workers.background.loop import PeriodicTask

_INTERVAL_S = 1.0


class RoutesWatcher(PeriodicTask):
    """Reads the routes file every second; a changed file that is not valid is a fault of the task.

    changed_text: the text of a valid file that differs from the one in use; None while there is none.
    """

    def __init__(self, config: Config) -> None:
        super().__init__("routes-watcher", interval_s=_INTERVAL_S)
        self.changed_text: str | None = None
        self._current_config = CurrentConfig(config)

    def run_once(self) -> None:
        """Compare the file with the routes in use."""
        self.run_step("routes file", self._compare)

    def _compare(self) -> None:
        if self._current_config.refresh():
            self.changed_text = self._current_config.get().routes_text
