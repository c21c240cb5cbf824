"""rapidbridge webhook listen."""

import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import click

from app.cli.common.output import replace_control_chars
from app.cli.local.development_secret import ensure_development_secret
from app.cli.local.service import running_service
from app.cli.webhook.payload_shape import shape_lines
from app.cli.webhook.rejections import RejectionLog
from app.config.settings import read_environment, read_settings
from app.database.engine import Database, open_database
from app.store.delivery_filter import DeliveryFilter, DeliverySummary, find_deliveries
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.truto.target_url import WEBHOOK_PATH

_POLL_INTERVAL_S = 0.25
# Deliveries that came together may be committed in another order.
_OVERLAP = timedelta(seconds=30)


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Where to listen.  [default: PORT, or 8000]")
@click.option("--show-data", is_flag=True, help="Print whole payloads: they hold your customers' data.")
def listen(port: int | None, *, show_data: bool) -> None:
    """Receive on this machine and print what arrives, until Ctrl-C: to see what Truto sends.

    Nothing else is needed, and nothing is registered at Truto. What arrives is answered 200 and kept in a
    temporary folder until the end: do not listen where deliveries matter, use `rapidbridge up`.

    \b
    Example:
      rapidbridge webhook listen
      rapidbridge simulate --records 100      (in a second terminal, in this folder)
    """
    variables = read_environment()
    listen_port = port or read_settings(variables).port
    given = variables.get("TRUTO_WEBHOOK_SECRET")
    with tempfile.TemporaryDirectory(prefix="rapidbridge-listen-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/rapidbridge.db"
        settings = {
            "DATABASE_URL": url,
            "PORT": str(listen_port),
            "TRUTO_WEBHOOK_SECRET": given or ensure_development_secret(),
            "WEB_CONCURRENCY": "1",
        }
        store = open_database(url)
        migrate(store)
        screen = _DeliveryScreen(store, folder, show_data=show_data)
        with running_service(settings, folder=folder) as supervisor:
            click.echo(
                _format_banner(
                    listen_port, settings["TRUTO_WEBHOOK_SECRET"], uses_development_secret=given is None
                )
            )
            supervisor.run(screen.print_new_deliveries)
        screen.print_new_deliveries(force=True)
        store.close()
    click.echo(f"Stopped. {screen.count} deliveries came.")


def _format_banner(port: int, secret: str, *, uses_development_secret: bool) -> str:
    local = f"http://127.0.0.1:{port}"
    rows = {
        "listens": f"{local}{WEBHOOK_PATH}",
        "secret": f"{secret} (made for development)" if uses_development_secret else "TRUTO_WEBHOOK_SECRET",
        "for Truto": f"open a tunnel to {local} that speaks HTTPS, then",
        "": f"rapidbridge webhook create --url https://<tunnel>{WEBHOOK_PATH}",
        "or": "rapidbridge simulate --records 100   (in a second terminal, here)",
        "stop": "Ctrl-C; what came is deleted then",
    }
    return "\n".join(["", *(f"  {name:10} {value}" for name, value in rows.items()), ""])


class _DeliveryScreen:
    """Prints what has come since it last looked. count: how many deliveries were printed."""

    def __init__(self, store: Database, folder: Path, *, show_data: bool) -> None:
        self._store = store
        self._inbox = Inbox(store)
        self._rejections = RejectionLog(folder)
        self._show_data = show_data
        self._seen_ids: set[UUID] = set()
        self._filter = DeliveryFilter()
        self._next_poll_s = 0.0

    @property
    def count(self) -> int:
        return len(self._seen_ids)

    def print_new_deliveries(self, *, force: bool = False) -> None:
        """Print what is new, four times a second at most."""
        if not force and time.monotonic() < self._next_poll_s:
            return
        self._next_poll_s = time.monotonic() + _POLL_INTERVAL_S
        for line in self._rejections.read_new_lines():
            click.secho(line, fg="red")
        for delivery in list(find_deliveries(self._store, self._filter)):
            if delivery.id not in self._seen_ids:
                self._seen_ids.add(delivery.id)
                for line in self._delivery_lines(delivery):
                    click.echo(line)
                self._filter = DeliveryFilter(since=delivery.received_at - _OVERLAP)

    def _delivery_lines(self, delivery: DeliverySummary) -> Iterator[str]:
        about = (delivery.event or "(no event)", delivery.resource, delivery.method, delivery.sync_job_run_id)
        heading = "  ".join(replace_control_chars(text) for text in about if text)
        bad = f"  {delivery.state}: {delivery.reason}" if delivery.state in ("quarantined", "refused") else ""
        size = f"{delivery.body_bytes:,} bytes"
        yield f"{delivery.received_at:%H:%M:%S}  {click.style(heading, bold=True)}  {size}{bad}"
        body = self._inbox.read_body(delivery.id)
        yield from (f"          {line}" for line in shape_lines(body, with_values=self._show_data))
