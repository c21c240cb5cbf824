"""The whole service in a folder, as `up` starts it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cli.local.ports import find_free_port
from app.cli.local.service import running_service
from app.database.engine import open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from tests.support.commands import run_command
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, make_environment


class Service:
    """A running service: its settings, its database, and its commands."""

    def __init__(self, folder: Path, database_url: str, routes: str = "", **settings: str) -> None:
        self._folder = folder
        port = find_free_port()
        self.webhook_url = f"http://127.0.0.1:{port}/webhooks/truto"
        self.settings = {"DATABASE_URL": database_url, "PORT": str(port), "TRUTO_WEBHOOK_SECRET": SECRET}
        self.settings |= settings
        if routes:
            (folder / "routes.toml").write_text(routes)
            self.settings["ROUTES_FILE"] = str(folder / "routes.toml")
        self.store = open_database(database_url, schema=settings.get("DATABASE_SCHEMA", ""))
        migrate(self.store)

    def rapidbridge(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        variables = make_environment(**self.settings, **settings)
        return run_command(*words, cwd=self._folder, environment=variables, timeout_s=120)

    def wait_until_settled(self) -> None:
        wait_until(
            lambda: not Inbox(self.store).count_by_state().get("pending"),
            timeout_s=60,
            what="all deliveries to be settled",
        )


@contextmanager
def running_whole_service(
    folder: Path, database_url: str, routes: str = "", **settings: str
) -> Iterator[Service]:
    """Start every process of the service; stop them at the end."""
    service = Service(folder, database_url, routes, **settings)
    try:
        with running_service(service.settings, folder=folder):
            yield service
    finally:
        service.store.close()
