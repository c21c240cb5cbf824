"""Log lines of a process that starts: its configuration, and settings that weaken it."""

import os

import structlog

from app.config.dangerous_settings import find_dangerous_settings
from app.config.load import Config
from app.config.settings import Settings, is_secret, read_driver_variables
from app.config.version import VERSION

log = structlog.get_logger()


def log_start(process: str, config: Config, **fields: object) -> None:
    """Log the configuration of a process that starts. process: web, worker or background.

    Secrets and URLs with passwords are shown as "set".
    """
    routes = config.routes
    log.info(
        "process.started",
        process=process,
        pid=os.getpid(),
        version=VERSION,
        **fields,
        routes_file=config.routes_file or "none: every record goes to DATABASE_URL",
        routes=len(routes.routes),
        sinks=[f"{name} ({sink.type})" for name, sink in routes.sinks.items()],
        subscribers=[f"{subscriber.name} ({subscriber.form})" for subscriber in routes.notify],
        database=config.settings.database_url.partition(":")[0].partition("+")[0],
        settings=list_changed_settings(config.settings),
    )


def log_dangerous_settings(config: Config) -> None:
    """Log one line with all settings that weaken the receiver, if there are any."""
    if dangerous := list(find_dangerous_settings(config, read_driver_variables())):
        log.warning(
            "settings.dangerous",
            settings=[setting.place for setting in dangerous],
            advice="rapidbridge doctor names the consequence and the remedy of each",
        )


def list_changed_settings(settings: Settings) -> list[str]:
    """Return the settings that differ from their defaults, as NAME=value."""
    changed = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if field.alias and value != field.get_default(call_default_factory=True):
            changed.append(f"{field.alias}={'set' if is_secret(field.alias) else value}")
    return changed
