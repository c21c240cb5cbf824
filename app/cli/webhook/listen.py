"""Command `rapidbridge webhook listen`: print incoming deliveries."""

import time
from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

import click

from app.cli.common.output import replace_control_chars
from app.cli.common.program import name_program
from app.cli.local.development_secret import WEBHOOK_SECRET
from app.cli.local.service import running_service
from app.cli.local.temporary_folder import temporary_folder
from app.cli.webhook.payload_shape import shape_lines
from app.cli.webhook.rejections import RejectionCounts
from app.config.settings import read_environment, read_settings
from app.database.engine import Database, open_database
from app.plural import format_count
from app.store.delivery_filter import DeliveryFilter, DeliverySummary, find_deliveries
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.truto.target_url import WEBHOOK_PATH

_POLL_INTERVAL_S = 0.25
# Deliveries received at about the same time may be committed in another order.
_OVERLAP = timedelta(seconds=30)


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [default: PORT, or 8000]")
@click.option(
    "--show-data", is_flag=True, help="Print complete payloads, which contain your customers' data."
)
def listen(port: int | None, *, show_data: bool) -> None:
    """Receive and print deliveries on this machine until Ctrl-C.

    Needs no settings and registers nothing at Truto. Accepted deliveries are answered with 200, and deleted
    when the command ends: for deliveries that you need, use `rapidbridge up`.

    \b
    Examples:
      rapidbridge webhook listen
      rapidbridge simulate --records 100    (in a second terminal, same folder)
    """
    variables = read_environment()
    listen_port = port or read_settings(variables).port
    own_secret = variables.get("TRUTO_WEBHOOK_SECRET")
    with temporary_folder("rapidbridge-listen-") as folder:
        url = f"sqlite:///{folder}/rapidbridge.db"
        settings = {
            "DATABASE_URL": url,
            "PORT": str(listen_port),
            "TRUTO_WEBHOOK_SECRET": own_secret or WEBHOOK_SECRET.ensure(),
            "WEB_CONCURRENCY": "1",
        }
        database = open_database(url)
        migrate(database)
        printer = _DeliveryPrinter(database, show_data=show_data)
        with running_service(settings, folder=folder) as supervisor:
            click.echo(
                _format_banner(
                    listen_port, settings["TRUTO_WEBHOOK_SECRET"], uses_development_secret=own_secret is None
                )
            )
            supervisor.run(printer.print_new_deliveries)
        printer.print_new_deliveries(force=True)
        database.close()
    click.echo(f"Stopped. {format_count(printer.count, 'delivery')} received.")


def _format_banner(port: int, secret: str, *, uses_development_secret: bool) -> str:
    local_url = f"http://127.0.0.1:{port}"
    rows = (
        ("URL", f"{local_url}{WEBHOOK_PATH}"),
        ("secret", f"{secret} (for development)" if uses_development_secret else "TRUTO_WEBHOOK_SECRET"),
        ("Truto", f"open an HTTPS tunnel to {local_url}, then run"),
        ("", name_program(f"rapidbridge webhook create --url https://<tunnel>{WEBHOOK_PATH}")),
        ("simulator", "in a second terminal, in this folder, run"),
        ("", name_program("rapidbridge simulate --records 100", port=port)),
        ("stop", "Ctrl-C; this deletes the received deliveries"),
    )
    return "\n".join(["", *(f"  {name:10} {value}" for name, value in rows), ""])


class _DeliveryPrinter:
    """Printer of new deliveries and rejected requests."""

    def __init__(self, database: Database, *, show_data: bool) -> None:
        self._database = database
        self._inbox = Inbox(database)
        self._rejections = RejectionCounts(database)
        self._show_data = show_data
        self._printed_ids: set[UUID] = set()
        self._filter = DeliveryFilter()
        self._next_poll_s = 0.0

    @property
    def count(self) -> int:
        """Return how many deliveries were printed."""
        return len(self._printed_ids)

    def print_new_deliveries(self, *, force: bool = False) -> None:
        """Print everything new; without `force`, at most four times a second."""
        if not force and time.monotonic() < self._next_poll_s:
            return
        self._next_poll_s = time.monotonic() + _POLL_INTERVAL_S
        for line in self._rejections.read_new_lines():
            click.secho(line, fg="red")
        for delivery in list(find_deliveries(self._database, self._filter)):
            if delivery.id not in self._printed_ids:
                self._printed_ids.add(delivery.id)
                for line in self._delivery_lines(delivery):
                    click.echo(line)
                self._filter = DeliveryFilter(since=delivery.received_at - _OVERLAP)

    def _delivery_lines(self, delivery: DeliverySummary) -> Iterator[str]:
        names = (delivery.event or "(no event)", delivery.resource, delivery.method, delivery.sync_job_run_id)
        heading = "  ".join(replace_control_chars(name) for name in names if name)
        problem = (
            f"  {delivery.state}: {delivery.reason}" if delivery.state in ("quarantined", "refused") else ""
        )
        size = f"{delivery.body_bytes:,} bytes"
        yield f"{delivery.received_at:%H:%M:%S}  {click.style(heading, bold=True)}  {size}{problem}"
        body = self._inbox.read_body(delivery.id)
        yield from (f"          {line}" for line in shape_lines(body, with_values=self._show_data))
