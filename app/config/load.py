"""What every process begins with: settings and routes, read together so that all complaints come at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.config.routes import Routes, build_default_routes
from app.config.routes_file import read_routes
from app.config.settings import Settings, read_environment, read_settings
from app.errors import ConfigError

_DEFAULT_ROUTES_FILE = "routes.toml"


@dataclass(frozen=True, slots=True)
class Config:
    """Checked settings and routes."""

    settings: Settings
    routes: Routes


def read_config(*, required: Sequence[str] = ()) -> Config:
    """Read the environment and the routes file; raises ConfigError with every complaint about either."""
    variables = read_environment()
    problems: list[str] = []
    settings = None
    try:
        settings = read_settings(variables, required=required)
    except ConfigError as error:
        problems += error.problems
    path = Path(variables.get("ROUTES_FILE", _DEFAULT_ROUTES_FILE))
    routes = None
    if path.is_file():
        try:
            routes = read_routes(
                _read_file(path), source=str(path), variables=_add_database_url(variables, settings)
            )
        except ConfigError as error:
            problems += error.problems
    if problems or settings is None:
        raise ConfigError(problems)
    return Config(settings, routes or build_default_routes(settings.database_url))


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read as UTF-8 text ({type(error).__name__})."]) from error


def _add_database_url(variables: dict[str, str], settings: Settings | None) -> dict[str, str]:
    # `url = "$DATABASE_URL"` means the database in use, also where it is the default.
    default = Settings.model_fields["database_url"].default
    return {**variables, "DATABASE_URL": settings.database_url if settings else default}
