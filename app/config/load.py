"""Loading of settings and routes, which reports all problems of both together."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.config.delivery_config import DeliveryConfig
from app.config.routes import Routes, build_default_routes, fill_in_schema
from app.config.routes_file import read_routes
from app.config.settings import ROUTES_SNAPSHOT_VARIABLE, Settings, read_environment, read_settings
from app.config.toml_lines import find_line, find_lines
from app.errors import ConfigError

_DEFAULT_ROUTES_FILE = "routes.toml"


@dataclass(frozen=True, slots=True)
class Config:
    """Valid settings and routes. routes_file, routes_text: its path and its text; "" without one."""

    settings: Settings
    routes: Routes
    routes_file: str = ""
    routes_text: str = field(default="", repr=False)

    def find_route_place(self, number: int) -> str:
        """Return the file and the line of a route, from 1; "" without a routes file."""
        line = find_line(find_lines(self.routes_text), ("routes", number - 1))
        return f"{self.routes_file}:{line}" if line else ""

    @property
    def delivery_config(self) -> DeliveryConfig:
        """The part that decides how workers write deliveries."""
        settings = self.settings
        return DeliveryConfig.build(
            self.routes, late_records=settings.late_records, to_open_run=settings.attribute_to_open_run
        )


def read_config(*, required: Sequence[str] = ()) -> Config:
    """Read the settings and the routes file. Without a routes file, every record goes to DATABASE_URL.

    required: names of settings that must be set. Raises ConfigError with all problems of both.
    """
    variables = read_environment()
    problems: list[str] = []
    settings = routes = None
    text = ""
    try:
        settings = read_settings(variables, required=required)
    except ConfigError as error:
        problems += error.problems
    # Processes of one command read the same routes, whatever happens to the file.
    snapshot = variables.get(ROUTES_SNAPSHOT_VARIABLE, "")
    if path := _get_routes_path(variables) if snapshot else find_routes_file(variables):
        try:
            text = read_routes_text(Path(snapshot) if snapshot else path)
            routes = read_routes(text, source=str(path), variables=_add_database_url(variables, settings))
        except ConfigError as error:
            problems += error.problems
    if problems or settings is None:
        raise ConfigError(problems)
    url, schema = settings.database_url, settings.database_schema
    if routes is None:
        return Config(settings, build_default_routes(url, schema))
    return Config(settings, fill_in_schema(routes, url, schema), str(path), text)


def find_routes_file(variables: Mapping[str, str]) -> Path | None:
    """Return the path of the routes file; None if there is none. variables: see `read_environment`."""
    path = _get_routes_path(variables)
    # Not only a file: containers mount a missing file as a folder, which must not mean the default routes.
    return path if os.path.lexists(path) else None


def _get_routes_path(variables: Mapping[str, str]) -> Path:
    return Path(variables.get("ROUTES_FILE", _DEFAULT_ROUTES_FILE))


def read_routes_text(path: Path) -> str:
    """Return the text of the routes file; raises ConfigError if it cannot be read."""
    try:
        # Reading a pipe could wait forever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError([f"{path}: is not a file. Correct the path, or replace it with a file."])
        # Editors on Windows begin a file with a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text. Save it with the encoding UTF-8."]) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            [f"{path}: cannot be read ({reason}). Check its path and its permissions."]
        ) from error


def _add_database_url(variables: Mapping[str, str], settings: Settings | None) -> dict[str, str]:
    # `url = "$DATABASE_URL"` works without the variable too: it means the database in use.
    default = Settings.model_fields["database_url"].default
    return {**variables, "DATABASE_URL": settings.database_url if settings else default}
