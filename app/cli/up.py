"""rapidbridge up: everything on one machine."""

import click

from app.cli.local.development_secret import development_secret
from app.cli.local.service import running_service
from app.config.load import Setup, read_setup
from app.config.settings import read_environment, setting_names
from app.database.engine import describe, open_store
from app.logs import set_up_logs
from app.redis.queue import DeliveryQueue, connect
from app.store.migrate import migrate


@click.command()
def up() -> None:
    """Start the web server, a worker and (where REDIS_URL is not set) a Valkey, until Ctrl-C or SIGTERM.

    The store is brought up to date first. Where TRUTO_WEBHOOK_SECRET is not set, one is made for development
    and kept in var/webhook-secret.
    """
    set_up_logs()
    setup = read_setup()
    variables = read_environment()
    settings = {name: variables[name] for name in setting_names() if name in variables}
    is_development = "TRUTO_WEBHOOK_SECRET" not in settings
    if is_development:
        settings["TRUTO_WEBHOOK_SECRET"] = development_secret()
    settings["PORT"] = str(setup.settings.port)
    if setup.settings.redis_url:
        DeliveryQueue(connect(setup.settings.redis_url, tls_verify=setup.settings.redis_tls_verify)).ping()
    migrate(open_store(setup.settings.database_url))
    with running_service(settings) as supervisor:
        click.echo(_banner(setup, settings, is_development=is_development))
        supervisor.run()
    click.echo("Stopped.")


def _banner(setup: Setup, settings: dict[str, str], *, is_development: bool) -> str:
    url = f"http://127.0.0.1:{settings['PORT']}"
    secret = "set"  # noqa: S105  # that it is, not what it is
    if is_development:
        secret = (
            f"{settings['TRUTO_WEBHOOK_SECRET']} (made for development; set TRUTO_WEBHOOK_SECRET to Truto's)"
        )
    rows = {
        "webhook": f"{url}/webhooks/truto",
        "health": f"{url}/healthz  {url}/readyz",
        "secret": secret,
        "store": describe(setup.settings.database_url),
        "redis": "REDIS_URL" if "REDIS_URL" in settings else "a Valkey of its own",
        "sinks": ", ".join(f"{name} ({sink.type})" for name, sink in setup.routes.sinks.items()),
        "try it": "rapidbridge simulate --records 1000   (in a second terminal, in this folder)",
        "stop": "Ctrl-C",
    }
    lines = [f"  {name:8} {value}" for name, value in rows.items()]
    return "\n".join(["", "RapidBridge receiver is up.", "", *lines, ""])
