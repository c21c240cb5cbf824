"""A store with load sinks, whose worker and planner the test calls step by step."""

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import select

from app.config.routes import Routes
from app.config.routes_file import read_routes
from app.database.engine import Database
from app.sinks.registry import SinkRegistry
from app.store.inbox import Inbox
from app.store.loads import Load, Loads
from app.store.models import IncomingDelivery
from app.store.schema import deliveries, sink_outcomes
from app.truto.events import read_envelope
from tests.support.files import read_rows
from workers.delivery.load_runner import LoadRunner
from workers.delivery.processor import DeliveryProcessor
from workers.delivery.work_recorder import WorkRecorder

NOW = datetime.now(UTC)
MB = 1024 * 1024


class LoadSite:
    """A migrated store, sinks of a routes file, and one worker. folder: of the sink "lake"."""

    def __init__(self, store: Database, routes: str, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.routes: Routes = read_routes(routes, source="routes.toml", variables={})
        self.sinks = SinkRegistry(self.routes)
        self.loads = Loads(store)
        self.inbox = Inbox(store)
        self.processor = DeliveryProcessor(store, self.routes, self.sinks, name="w")
        self.runner = self.open_runner("w")

    def open_runner(self, worker: str, **options: Any) -> LoadRunner:
        work = WorkRecorder(self.store)
        return LoadRunner(self.store, self.routes, self.sinks, work, worker=worker, **options)

    def put(
        self,
        *records: Any,
        account: str = "a",
        resource: str = "crm/contacts",
        received_at: datetime = NOW,
        number: int = 0,
        event: str = "sync_job_run:record",
    ) -> UUID:
        """Receive one page. number: distinguishes pages. A record that is a text is its JSON."""
        raw = [record if isinstance(record, str) else json.dumps(record) for record in records]
        payload = {
            "sync_job_run_id": "r",
            "integrated_account_id": account,
            "resource": resource,
            "method": "list",
        }
        about = {"id": f"e{number}", "event": event, "created_at": NOW.isoformat()}
        inner = json.dumps(payload)
        body = (
            f'{json.dumps(about)[:-1]}, "payload": {inner[:-1]}, "records": [{", ".join(raw)}]}}}}'.encode()
        )
        digest = hashlib.sha256(body).digest()
        [receipt] = self.inbox.put([IncomingDelivery(body, digest, received_at, read_envelope(body))])
        return receipt.delivery_id

    def put_pages(self, number: int, **options: Any) -> list[UUID]:
        """Receive pages of one record each, a second apart."""
        return [
            self.put(
                {"id": f"{n:04d}", "n": n}, number=n, received_at=NOW + timedelta(microseconds=n), **options
            )
            for n in range(number)
        ]

    def process(self, ids: Sequence[UUID]) -> None:
        """Let the worker process deliveries."""
        for start in range(0, len(ids), 32):
            self.processor.deliver(ids[start : start + 32])

    def plan(self, *, max_bytes: int = 64 * MB, max_age_s: float = 0, sink: str = "lake") -> Load | None:
        """Plan a load of the sink, by default with all that waits."""
        return self.loads.plan(
            sink, max_bytes=max_bytes, max_age=timedelta(seconds=max_age_s), now=datetime.now(UTC)
        )

    def run_all(self) -> int:
        """Plan and run loads until nothing waits; return their number."""
        number = 0
        while load := self.plan():
            self.runner.run(load.id)
            number += 1
        return number

    def read_states(self) -> dict[UUID, str]:
        return {row.id: row.state for row in self.store.read(select(deliveries.c.id, deliveries.c.state))}

    def read_outcome(self, id_: UUID, sink: str = "lake") -> Any:
        of_sink = select(sink_outcomes).where(sink_outcomes.c.sink == sink)
        [row] = self.store.read(of_sink.where(sink_outcomes.c.delivery_id == id_))
        return row

    def list_files(self) -> list[str]:
        """The names of all files in the folder, temporary ones included."""
        return sorted(
            path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()
        )

    def read_rows(self) -> list[dict[str, Any]]:
        """The rows of all files, in the order of names and lines."""
        return [
            row for name in self.list_files() for row in read_rows(name, (self.folder / name).read_bytes())
        ]


def lake_routes(folder: Path | str, *, sink: str = "", route: str = "") -> str:
    """A routes file that sends every record to the sink "lake". sink, route: further lines of their tables."""
    url = folder if isinstance(folder, str) else f"file://{folder}"
    return f'[sinks.lake]\ntype = "files"\nurl = "{url}"\n{sink}\n[[routes]]\nsinks = ["lake"]\n{route}\n'
