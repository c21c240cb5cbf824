"""rapidbridge webhook listen."""

import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import click

from app.cli.common.output import printable
from app.cli.local.development_secret import development_secret
from app.cli.local.service import running_service
from app.cli.webhook.addresses import WEBHOOK_PATH
from app.cli.webhook.payload_shape import shape_lines
from app.cli.webhook.rejections import Refusals
from app.config.settings import read_environment, read_settings
from app.database.engine import Store, open_store
from app.store.delivery_filter import Found, Selection, find
from app.store.inbox import Inbox
from app.store.migrate import migrate

_EVERY_S = 0.25
# Deliveries that came together may be committed in another order.
_LOOK_BACK = timedelta(seconds=30)


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
    chosen = port or read_settings(variables).port
    given = variables.get("TRUTO_WEBHOOK_SECRET")
    with tempfile.TemporaryDirectory(prefix="rapidbridge-listen-") as name:
        folder = Path(name)
        url = f"sqlite:///{folder}/rapidbridge.db"
        settings = {
            "DATABASE_URL": url,
            "PORT": str(chosen),
            "TRUTO_WEBHOOK_SECRET": given or development_secret(),
            "WEB_CONCURRENCY": "1",
        }
        store = open_store(url)
        migrate(store)
        screen = _Screen(store, folder, show_data=show_data)
        with running_service(settings, folder=folder) as supervisor:
            click.echo(_banner(chosen, settings["TRUTO_WEBHOOK_SECRET"], is_ours=given is None))
            supervisor.run(screen.look)
        screen.look(at_once=True)
        store.dispose()
    click.echo(f"Stopped. {screen.count} deliveries came.")


def _banner(port: int, secret: str, *, is_ours: bool) -> str:
    local = f"http://127.0.0.1:{port}"
    rows = {
        "listens": f"{local}{WEBHOOK_PATH}",
        "secret": f"{secret} (made for development)" if is_ours else "TRUTO_WEBHOOK_SECRET",
        "for Truto": f"open a tunnel to {local} that speaks HTTPS, then",
        "": f"rapidbridge webhook create --url https://<tunnel>{WEBHOOK_PATH}",
        "or": "rapidbridge simulate --records 100   (in a second terminal, here)",
        "stop": "Ctrl-C; what came is deleted then",
    }
    return "\n".join(["", *(f"  {name:10} {value}" for name, value in rows.items()), ""])


class _Screen:
    """Prints what has come since it last looked. count: how many deliveries were printed."""

    def __init__(self, store: Store, folder: Path, *, show_data: bool) -> None:
        self._store = store
        self._inbox = Inbox(store)
        self._refusals = Refusals(folder)
        self._show_data = show_data
        self._seen: set[UUID] = set()
        self._newest = Selection()
        self._next_s = 0.0

    @property
    def count(self) -> int:
        return len(self._seen)

    def look(self, *, at_once: bool = False) -> None:
        """Print what is new, four times a second at most."""
        if not at_once and time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _EVERY_S
        for line in self._refusals.new_lines():
            click.secho(line, fg="red")
        for found in list(find(self._store, self._newest)):
            if found.id not in self._seen:
                self._seen.add(found.id)
                for line in self._lines(found):
                    click.echo(line)
                self._newest = Selection(since=found.received_at - _LOOK_BACK)

    def _lines(self, found: Found) -> Iterator[str]:
        about = (found.event or "(no event)", found.resource, found.method, found.sync_job_run_id)
        words = "  ".join(printable(word) for word in about if word)
        bad = f"  {found.state}: {found.reason}" if found.state in ("quarantined", "refused") else ""
        size = f"{found.body_bytes:,} bytes"
        yield f"{found.received_at:%H:%M:%S}  {click.style(words, bold=True)}  {size}{bad}"
        body = self._inbox.read_body(found.id)
        yield from (f"          {line}" for line in shape_lines(body, with_values=self._show_data))
