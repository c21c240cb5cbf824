"""Endpoints and functions as sinks of a whole service: held work, refused starts, doctor and erasures."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import select

from app.database.engine import Database, open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.schema import deliveries
from app.truto.events import Envelope
from app.web.enqueuer import NewDelivery
from tests.support.fake_endpoint import SECRET
from tests.support.processes import Command
from tests.support.record_endpoint import Answer, RecordEndpoint, answer_json, record_endpoint
from tests.support.redis_keys import open_queue
from tests.support.seeded_store import build_command
from tests.support.waiting import wait_until
from tests.support.web_process import ROOT, make_environment

ROUTES = """
[sinks.search]
type = "http"
url = "$ENDPOINT"
secret = "$SINK_SECRET"
allow_private = {allow_private}

[sinks.mine]
type = "python"
target = "own_sink:write"

[[routes]]
sinks = ["search", "mine"]
"""
OWN_SINK = """
from pathlib import Path
written = Path("written.txt")

def write(batch):
    if not Path("ready").exists():
        raise KeyError(batch.records[0].value["name"])
    with written.open("a") as file:
        file.writelines(f"{record.key}\\n" for record in batch.records)
"""


class Site:
    """A store, the folder of its configuration, and the commands that run in it."""

    def __init__(self, folder: Path, store: Database, redis: Redis, redis_url: str, endpoint: str) -> None:
        self.folder, self.store, self.redis = folder, store, redis
        self.settings = {
            "DATABASE_URL": f"sqlite:///{folder}/store.db",
            "REDIS_URL": redis_url,
            "ROUTES_FILE": str(folder / "routes.toml"),
            "ENDPOINT": endpoint,
            "SINK_SECRET": SECRET,
        }
        self.configure()
        (folder / "own_sink.py").write_text(OWN_SINK)

    def configure(self, *, allow_private: str = "true") -> None:
        (self.folder / "routes.toml").write_text(ROUTES.format(allow_private=allow_private))

    def worker(self) -> Command:
        arguments = ["app.cli", "worker", "-n", "1"]
        return Command(arguments, folder=self.folder, environment=make_environment(**self.settings))

    def put(self, number: int) -> None:
        """Store and enqueue deliveries of one record each."""
        incoming = []
        for key in range(number):
            about = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
            payload = {**about, "records": [{"id": str(key), "name": "Ada Lovelace"}]}
            body = json.dumps({"event": "sync_job_run:record", "payload": payload}).encode()
            envelope = Envelope(
                event_id=str(key),
                event="sync_job_run:record",
                integrated_account_id="a",
                resource="crm/contacts",
                method="list",
            )
            received_at = datetime.now(UTC) + timedelta(microseconds=key)
            incoming.append(IncomingDelivery(body, hashlib.sha256(body).digest(), received_at, envelope))
        receipts = Inbox(self.store).put(incoming)
        queue = open_queue(self.redis, self.store)
        queue.enqueue([NewDelivery(receipt.delivery_id) for receipt in receipts])

    def count_settled(self) -> int:
        return Inbox(self.store).count_by_state().get("settled", 0)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code and the output of a command."""
        ran = subprocess.run(
            build_command(*arguments),
            cwd=self.folder,
            env=make_environment(**self.settings) | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture
def endpoint() -> Iterator[RecordEndpoint]:
    with record_endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def site(tmp_path: Path, redis: Redis, redis_url: str, endpoint: RecordEndpoint) -> Iterator[Site]:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(store)
    yield Site(tmp_path, store, redis, redis_url, endpoint.url)
    store.close()


def test_outages_of_an_endpoint_and_a_function_use_up_no_attempts(
    site: Site, endpoint: RecordEndpoint
) -> None:
    endpoint.answers = [Answer(429, {"Retry-After": "1"})]

    with site.worker() as worker:
        site.put(30)
        wait_until(lambda: worker.log.count("sink.opened") == 2, what=lambda: worker.log)
        assert site.count_settled() == 0
        # The first trials come after 5 s.
        (site.folder / "ready").touch()
        wait_until(lambda: site.count_settled() == 30, timeout_s=40, what=lambda: worker.log)

    assert sorted((site.folder / "written.txt").read_text().split(), key=int) == [str(n) for n in range(30)]
    attempts = [row.attempts for row in site.store.read(select(deliveries.c.attempts))]
    # The function fails twice before its breaker opens; the endpoint names a wait.
    assert sum(attempts) <= 30 + 2
    assert len(endpoint.stored) == 30
    assert "own_sink:write failed: KeyError at" in worker.log
    assert not re.search("Ada|hidden-path|whsec", worker.log)


def test_records_that_an_endpoint_rejects_are_dead_and_can_be_replayed(
    site: Site, endpoint: RecordEndpoint
) -> None:
    (site.folder / "ready").touch()
    endpoint.answers = [answer_json({"rejected": [{"ordinal": 0, "reason": "no_email"}]})]

    with site.worker() as worker:
        site.put(2)
        wait_until(lambda: site.count_settled() == 2, what=lambda: worker.log)
        code, listed = site.run("dead", "list")
        assert (code, "rejected by search: no_email" in listed) == (1, True), listed
        assert len(endpoint.stored) == 1
        code, output = site.run("dead", "replay", "--records", "--reason", "no_email", "--yes")
        assert code == 0, output
        wait_until(lambda: len(endpoint.stored) == 2, what=lambda: worker.log)

    assert site.run("dead", "list")[0] == 0


def test_a_function_that_cannot_be_loaded_stops_the_start_and_fails_the_check(site: Site) -> None:
    (site.folder / "own_sink.py").write_text("import nowhere_installed")
    problem = "own_sink:write cannot be imported: it imports nowhere_installed, which is not installed;"

    code, output = site.run("worker")
    assert code == 2
    assert f"routes.toml: [sinks.mine]: {problem}" in " ".join(output.split())

    code, output = site.run("doctor", "--no-post")
    assert code == 1
    assert problem in " ".join(output.split())


def test_doctor_sends_a_ping_and_names_the_answer(site: Site, endpoint: RecordEndpoint) -> None:
    _, output = site.run("doctor", "--no-post")
    assert re.search(r"sink search\s+ok +writable +http://127\.0\.0\.1:\d+\n", output), output
    assert [request.body for request in endpoint.requests] == [{"type": "ping", "records": []}]

    endpoint.answers = [Answer(401)]
    code, output = site.run("doctor", "--no-post")
    assert (code, "the endpoint answered 401; correct `secret`" in " ".join(output.split())) == (1, True)

    site.configure(allow_private="false")
    _, output = site.run("doctor", "--no-post")
    assert "the endpoint has no public address; set allow_private = true" in " ".join(output.split())
    assert "hidden-path" not in output


def test_an_erasure_names_the_sinks_that_it_cannot_erase(site: Site) -> None:
    code, output = site.run("erase", "--account", "a", "--yes")

    assert code == 1
    lines = " ".join(output.split())
    assert "Not reached: sink search: nothing was erased at http://127.0.0.1:" in lines
    assert "Not reached: sink mine: nothing was erased by own_sink:write: name a function as `erase`" in lines


def test_a_worker_leaves_its_modules_out_of_garbage_collections(site: Site) -> None:
    (site.folder / "ready").touch()
    counting = '    Path("frozen.txt").write_text(str(gc.get_freeze_count()))\n    with written'
    code = OWN_SINK.replace("    with written", counting)
    (site.folder / "own_sink.py").write_text(f"import gc\n{code}")
    site.put(1)
    with site.worker() as worker:
        wait_until(lambda: site.count_settled() == 1, what=lambda: worker.log)

    # They are more than a hundred thousand objects.
    assert int((site.folder / "frozen.txt").read_text()) > 50_000
