"""rapidbridge up: the whole service on one machine."""

import click

from app.cli.common.program import name_program
from app.cli.local.development_secret import DASHBOARD_SECRET, WEBHOOK_SECRET
from app.cli.local.service import running_service
from app.config.load import Config, read_config
from app.config.settings import list_setting_names, read_environment
from app.database.engine import redact_url
from app.logs import configure_logging
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from app.store.encryption_keys import refuse_missing_keys
from app.store.migrate import migrate_as_owner
from app.store.store_database import open_store
from app.truto.target_url import WEBHOOK_PATH


@click.command()
def up() -> None:
    """Start the web server, a worker and Valkey on this machine.

    The command runs until Ctrl-C or SIGTERM. It updates the tables in DATABASE_URL first. Valkey is started
    only if REDIS_URL is not set. Without TRUTO_WEBHOOK_SECRET, a development secret is created in
    var/webhook-secret; `rapidbridge simulate` signs with it. Without DASHBOARD_PASSWORD, the password of
    the dashboard is created in var/dashboard-password.
    """
    config = read_config()
    # Read by a person, even if it goes to a file.
    configure_logging("json" if config.settings.log_format == "json" else "text")
    variables = read_environment()
    settings = {name: variables[name] for name in list_setting_names() if name in variables}
    uses_development_secret = "TRUTO_WEBHOOK_SECRET" not in settings
    if uses_development_secret:
        settings["TRUTO_WEBHOOK_SECRET"] = WEBHOOK_SECRET.ensure()
    settings["PORT"] = str(config.settings.port)
    if config.settings.redis_url:
        redis = connect_redis(config.settings.redis_url, tls_verify=config.settings.redis_tls_verify)
        DeliveryQueue(redis, config.settings.namespace).ping()
    database = open_store(config.settings)
    migrate_as_owner(database, config.settings.migration_database_url)
    refuse_missing_keys(database)
    # The processes do without the rights of the tables' owner.
    settings.pop("MIGRATION_DATABASE_URL", None)
    # Also beside a password that only reads: otherwise nobody could act.
    uses_development_password = "DASHBOARD_PASSWORD" not in settings
    if uses_development_password:
        settings["DASHBOARD_PASSWORD"] = DASHBOARD_SECRET.ensure()
    with running_service(settings) as supervisor:
        banner = _format_banner(
            config,
            settings,
            uses_development_secret=uses_development_secret,
            uses_development_password=uses_development_password,
        )
        click.echo(banner)
        supervisor.run()
    click.echo("Stopped.")


def _format_banner(
    config: Config,
    settings: dict[str, str],
    *,
    uses_development_secret: bool,
    uses_development_password: bool,
) -> str:
    url = f"http://127.0.0.1:{settings['PORT']}"
    secret = "set"  # noqa: S105  # not the secret itself
    if uses_development_secret:
        secret = f"{settings['TRUTO_WEBHOOK_SECRET']} (for development only)"
    password = "set"  # noqa: S105  # not the password itself
    if uses_development_password:
        password = f"{settings['DASHBOARD_PASSWORD']} (for development only)"
    rows = {
        "pages": f"{url}/",
        "password": password,
        "webhook": f"{url}{WEBHOOK_PATH}",
        "health": f"{url}/healthz  {url}/readyz",
        "secret": secret,
        "database": redact_url(config.settings.database_url),
        "redis": "REDIS_URL" if "REDIS_URL" in settings else "embedded Valkey",
        "sinks": ", ".join(f"{name} ({sink.type})" for name, sink in config.routes.sinks.items()),
        "try it": name_program("rapidbridge simulate --records 1000", port=config.settings.port),
        "": "(in a second terminal, in this folder)",
        "stop": "Ctrl-C",
    }
    lines = [f"  {name:8} {value}" for name, value in rows.items()]
    return "\n".join(["", "RapidBridge receiver is up.", "", *lines, ""])
