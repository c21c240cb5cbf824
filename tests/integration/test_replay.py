"""The replay command, with a real worker: redelivery, import from a file, forwarding."""

import gzip
import hashlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy import func, select, text, update

from app.database.engine import Database, open_database
from app.store.delivery_export import ExportedDelivery, write_line
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.models import IncomingDelivery
from app.store.operations import Operations
from app.store.schema import deliveries, replays
from app.truto.events import Envelope, read_envelope
from app.truto.signature import sign
from tests.support.commands import run_command
from tests.support.fake_receiver import SECRET, running_receiver
from tests.support.processes import ROOT, Command
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

ALL_ROUTED = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[[routes]]
sinks = ["main"]
"""
# ticketing/tickets has no route, and crm/contacts shares a table with crm/deals.
MISROUTED = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[[routes]]
resource = "crm/deals"
sinks = ["main"]

[[routes]]
resource = "crm/contacts"
table = "crm_deals"
sinks = ["main"]
"""


class ReplaySetup:
    """A store with routes, and the commands that use them."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/store.db"
        self._redis_url = redis_url
        self.secret = SECRET
        self.store: Database = open_database(self.url)
        migrate(self.store)
        self.inbox = Inbox(self.store)
        self.route(ALL_ROUTED)

    def route(self, routes: str) -> None:
        (self.folder / "routes.toml").write_text(routes)

    @property
    def environment(self) -> dict[str, str]:
        return make_environment(
            DATABASE_URL=self.url, REDIS_URL=self._redis_url, TRUTO_WEBHOOK_SECRET=self.secret
        )

    def worker(self) -> Command:
        return Command(["app.cli", "worker"], folder=self.folder, environment=self.environment)

    def start(self, *words: str, command: tuple[str, ...] = ("replay",)) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "app.cli", *command, *words],
            cwd=self.folder,
            env={**self.environment, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def replay(self, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        if stdin:
            process = self.start(*words)
            out, err = process.communicate(stdin, timeout=120)
            return process.returncode, out.decode(), err.decode()
        ran = run_command("replay", *words, cwd=self.folder, environment=self.environment, timeout_s=120)
        return ran.returncode, ran.stdout, ran.stderr

    def put(self, numbers: Sequence[int], resource: str = "crm/contacts") -> list[UUID]:
        incoming = [make_delivery(number, resource) for number in numbers]
        return [receipt.delivery_id for receipt in self.inbox.put(incoming)]

    def states(self) -> dict[str, int]:
        statement = select(deliveries.c.state, func.count()).group_by(deliveries.c.state)
        with self.store.engine.connect() as connection:
            return {row[0]: row[1] for row in connection.execute(statement)}

    def give_up(self, resource: str) -> None:
        """Make the pending deliveries of a resource dead, as after three days."""
        change = update(deliveries).where(deliveries.c.state == "pending", deliveries.c.resource == resource)
        values = {"state": "dead", "reason": "internal_error", "settled_at": datetime.now(UTC)}
        with self.store.engine.begin() as connection:
            connection.execute(change.values(values))

    def keys(self, table: str) -> set[str]:
        with self.store.engine.connect() as connection:
            return set(connection.execute(text(f'SELECT "_key" FROM {table}')).scalars())

    def wait_until_settled(self) -> None:
        wait_until(lambda: "pending" not in self.states(), timeout_s=60, what=lambda: f"{self.states()}")


def body_of(number: int, resource: str = "crm/contacts") -> bytes:
    payload = {
        "sync_job_run_id": "r",
        "integrated_account_id": "a",
        "resource": resource,
        "method": "list",
        "records": [{"id": str(number)}],
    }
    event = {"event": "sync_job_run:record", "id": f"e{number}", "created_at": "2026-11-24T10:00:00Z"}
    return json.dumps({**event, "payload": payload}).encode()


def make_delivery(number: int, resource: str = "crm/contacts") -> IncomingDelivery:
    body = body_of(number, resource)
    received_at = datetime.now(UTC) - timedelta(days=3) + timedelta(seconds=number)
    return make_incoming(body, hashlib.sha256(body).digest(), received_at)


def make_incoming(body: bytes, digest: bytes, received_at: datetime) -> IncomingDelivery:
    return IncomingDelivery(body, digest, received_at, read_envelope(body))


@pytest.fixture
def site(tmp_path: Path, redis_url: str, redis: Redis) -> Iterator[ReplaySetup]:
    site = ReplaySetup(tmp_path, redis_url)
    yield site
    site.store.close()


def test_failed_deliveries_reach_their_sinks_after_the_routes_are_fixed(site: ReplaySetup) -> None:
    site.route(MISROUTED)
    site.put([0], "crm/deals")
    with site.worker():
        site.wait_until_settled()
    site.put(range(1, 151))
    site.put(range(151, 301), "ticketing/tickets")
    site.give_up("crm/contacts")
    with site.worker():
        site.wait_until_settled()
    assert site.states() == {"settled": 1, "dead": 150, "unrouted": 150}

    site.route(ALL_ROUTED)
    with site.worker():
        dry = site.replay("--state", "dead", "--dry-run")
        code, out, err = site.replay("--state", "dead", "--state", "unrouted", "--yes", "--json")

    assert dry[0] == 0
    assert "crm/contacts  list    dead          150\n150 deliveries.\n" in dry[1]
    assert code == 0, err
    assert json.loads(out) | {"replay": ""} == {
        "replay": "",
        "is_finished": True,
        "deliveries": 300,
        "states": {"settled": 300},
        "still_unreadable": 0,
        "dead_records": 0,
        "with_dead_records": 0,
        "left_out": {},
    }
    assert site.states() == {"settled": 301}
    assert site.keys("crm_contacts") == {str(number) for number in range(1, 151)}
    assert site.keys("ticketing_tickets") == {str(number) for number in range(151, 301)}


def test_dead_replay_replays_all_failed_deliveries_and_no_others(site: ReplaySetup) -> None:
    site.route(MISROUTED)
    site.put([0], "crm/deals")
    with site.worker():
        site.wait_until_settled()
    site.put([1, 2])
    site.put([3], "ticketing/tickets")
    site.give_up("crm/contacts")
    with site.worker():
        site.wait_until_settled()
    assert site.states() == {"settled": 1, "dead": 2, "unrouted": 1}

    site.route(ALL_ROUTED)
    with site.worker():
        out, err = site.start("--json", command=("dead", "replay")).communicate(timeout=60)
    settled = site.start("--state", "settled", command=("dead", "replay"))

    assert json.loads(out)["states"] == {"settled": 3}, err
    assert settled.wait(30) == 2
    settled.communicate()


def put_with_records(site: ReplaySetup, name: str, records: list[Any], method: str = "list") -> None:
    payload = {
        "sync_job_run_id": "r",
        "integrated_account_id": "a",
        "resource": "crm/contacts",
        "method": method,
        "records": records,
    }
    body = json.dumps({"event": "sync_job_run:record", "id": name, "payload": payload}).encode()
    site.inbox.put([make_incoming(body, hashlib.sha256(body).digest(), datetime.now(UTC))])


def test_dead_replay_records_replays_the_deliveries_of_dead_records(site: ReplaySetup) -> None:
    put_with_records(site, "e", ["odd", {"id": "1"}])
    site.put([2])
    with site.worker():
        site.wait_until_settled()
        plain = site.start("--json", command=("dead", "replay")).communicate(timeout=60)
    site.route(ALL_ROUTED.replace('sinks = ["main"]', 'sinks = ["main"]\non_non_object = "wrap"'))
    with site.worker():
        words = ("--records", "--reason", "not_object", "--json")
        fixed = site.start(*words, command=("dead", "replay")).communicate(timeout=60)
        again = site.start(*words, command=("dead", "replay")).communicate(timeout=60)

    assert b"1 dead record of settled deliveries is not included." in plain[1]
    assert [json.loads(out)["deliveries"] for out, _ in (plain, fixed, again)] == [0, 1, 0]
    assert json.loads(fixed[0])["states"] == {"settled": 1}
    assert json.loads(fixed[0])["dead_records"] == 0
    assert len(site.keys("crm_contacts")) == 3


def test_dead_replay_records_reports_mended_and_still_dead_records(site: ReplaySetup) -> None:
    put_with_records(site, "mended", ["odd", {"id": "1"}])
    put_with_records(site, "still dead", ["odd", "odd", {"id": "2"}], method="get")
    with site.worker():
        site.wait_until_settled()
    mending = '[[routes]]\nmethod = "list"\nsinks = ["main"]\non_non_object = "wrap"\n\n[[routes]]'
    site.route(ALL_ROUTED.replace("[[routes]]", mending))
    with site.worker():
        half = site.start("--records", command=("dead", "replay"))
        half_out, half_err = half.communicate(timeout=60)
        site.route(ALL_ROUTED.replace('sinks = ["main"]', 'sinks = ["main"]\non_non_object = "wrap"'))
    with site.worker():
        rest = site.start("--records", command=("dead", "replay"))
        rest_out, rest_err = rest.communicate(timeout=60)

    assert half.returncode == 1, half_err
    assert half_out.decode().startswith(
        "2 deliveries replayed:\n  2 settled, 1 of them with 2 dead records: see the reasons with `"
    )
    assert rest.returncode == 0, rest_err
    assert rest_out == b"1 delivery replayed:\n  1 settled, without dead records\n"


def test_a_replay_that_leaves_deliveries_unrouted_exits_1(site: ReplaySetup) -> None:
    site.route(MISROUTED)
    site.put(range(3), "ticketing/tickets")
    with site.worker():
        site.wait_until_settled()
        code, out, _ = site.replay("--state", "unrouted")

    assert code == 1
    assert out == "3 deliveries replayed:\n  3 unrouted: no route matches\n"


def count_requeued(site: ReplaySetup) -> int:
    with site.store.engine.connect() as connection:
        return connection.execute(select(replays.c.requeued_deliveries)).scalar() or 0


def test_an_interrupted_command_leaves_its_replay_running_and_follows_it_again(site: ReplaySetup) -> None:
    site.put(range(600))
    words = ("--resource", "crm/*", "--since", "7d", "--json")
    with site.worker():
        site.wait_until_settled()
        process = site.start(*words, "--rate", "200")
        wait_until(lambda: count_requeued(site) > 50)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        first = json.loads(out)
        again = site.replay(*words)
        second = json.loads(again[1])

    hint = b" ".join(err.split())
    assert process.returncode == 1
    assert f"app.cli operations show {first['replay']} --follow".encode() in hint
    assert f"app.cli operations cancel {first['replay']}".encode() in hint
    assert not first["is_finished"]
    assert 50 < first["deliveries"] < 600
    assert again[0] == 0
    assert "Resuming the replay" in again[2]
    assert (second["replay"], second["deliveries"]) == (first["replay"], 600)
    assert second["states"] == {"settled": 600}


def test_workers_continue_the_replay_of_a_killed_command(site: ReplaySetup) -> None:
    site.put(range(400))
    operations = Operations(site.store)
    with site.worker():
        site.wait_until_settled()
        process = site.start("--all", "--rate", "100")
        wait_until(lambda: count_requeued(site) > 50)
        process.kill()
        process.communicate(timeout=30)
        [killed] = operations.list_newest(limit=2)
        requeued = count_requeued(site)
        wait_until(lambda: operations.list_newest(limit=2)[0].is_finished, timeout_s=60)
        shown = site.start("--json", str(killed.id), command=("operations", "show")).communicate(timeout=60)

    assert not killed.is_finished
    assert requeued < 400
    values = json.loads(shown[0])
    assert (values["state"], values["done"], values["total"]) == ("finished", 400, 400)
    assert values["requested_by"] == "command line"
    assert values["states"] == {"settled": 400}
    assert count_requeued(site) == 400


def test_a_cancelled_replay_ends_and_its_requeued_deliveries_are_written(site: ReplaySetup) -> None:
    site.put(range(400))
    with site.worker():
        site.wait_until_settled()
        # So slow that it cannot end before the cancellation, on a busy machine either.
        process = site.start("--all", "--rate", "10")
        wait_until(lambda: count_requeued(site) > 20)
        [running] = Operations(site.store).list_newest(limit=2)
        site.start(str(running.id), command=("operations", "cancel")).communicate(timeout=60)
        _, err = process.communicate(timeout=30)
        site.wait_until_settled()
        requeued = count_requeued(site)
        listed = site.start(command=("operations", "list")).communicate(timeout=60)[0].decode()

    assert process.returncode == 1
    assert b"Cancelled." in err
    assert 20 < requeued < 400
    assert f"{running.id}  replay  cancelled" in listed
    assert site.states() == {"settled": 400}


def test_a_replay_of_everything_needs_all_and_contradicting_options_are_refused(site: ReplaySetup) -> None:
    site.put(range(3))

    codes = [
        site.replay(*words)[0]
        for words in ([], ["--all", "--state", "dead"], ["--state", "pending"], ["--all", "--sink", "lake"])
    ]
    codes += [site.replay(*words)[0] for words in (["--all", "--secret", "s"], ["--to", "x", "--all"])]
    code, out, _ = site.replay("--all")

    assert codes == [2] * 6
    assert (code, out) == (0, "Nothing to replay.\nLeft out: 3 pending: already in progress.\n")


def test_more_than_a_thousand_deliveries_need_a_confirmation(site: ReplaySetup) -> None:
    site.put(range(1001))
    with site.store.engine.begin() as connection:
        connection.execute(update(deliveries).values(state="settled", settled_at=datetime.now(UTC)))

    code, _, err = site.replay("--resource", "crm/*")
    limited = site.replay("--resource", "crm/*", "--limit", "10", "--dry-run", "--json")

    assert code == 2
    assert "1,001 deliveries." in err
    assert "No terminal to confirm at: pass --yes" in err
    assert json.loads(limited[1])["deliveries"] == 10
    assert site.states() == {"settled": 1001}


def make_exported_line(number: int, received_at: datetime, body: bytes) -> bytes:
    exported = ExportedDelivery(UUID(int=number), received_at, Envelope(), state="", reason="", body=body)
    return write_line(exported).rstrip(b"\n")


def make_file() -> bytes:
    exported = make_delivery(1)
    received_at = datetime(2026, 11, 1, tzinfo=UTC)
    not_utf8 = body_of(2)[:-2] + b', "odd": "\xff"}}'
    return b"\n".join(
        [
            make_exported_line(7, received_at, exported.body),
            make_exported_line(8, received_at, not_utf8),
            body_of(3),
            b"",
            b"no delivery",
            body_of(3) + b"\r",
            b'{"format": "rapidbridge.delivery/9", "body": ""}',
            b'{"format": "rapidbridge.delivery/1", "id": "x", "body": ""}',
            body_of(4)[:50],
        ]
    )


@pytest.mark.parametrize("kind", ["plain", "gzip", "stdin"])
def test_an_imported_file_is_stored_as_if_truto_had_sent_it(
    site: ReplaySetup, tmp_path: Path, kind: str
) -> None:
    content = make_file()
    file = tmp_path / "deliveries.jsonl"
    file.write_bytes(gzip.compress(content) if kind == "gzip" else content)
    words = ["--from", "-" if kind == "stdin" else str(file), "--json"]
    stdin = content if kind == "stdin" else b""

    dry = site.replay(*words, "--dry-run", stdin=stdin)
    states_after_dry_run = site.states()
    first, second = site.replay(*words, stdin=stdin), site.replay(*words, stdin=stdin)

    assert json.loads(dry[1])["skipped"] == 4
    assert states_after_dry_run == {}
    assert [code for code, *_ in (dry, first, second)] == [1, 1, 1]
    counts = [json.loads(out) for _, out, _ in (first, second)]
    assert [(count["new"], count["duplicates"], count["skipped"]) for count in counts] == [
        (3, 1, 4),
        (0, 4, 4),
    ]
    assert [line.partition(":")[0] for line in first[2].splitlines()] == [
        f"line {number}" for number in (5, 7, 8, 9)
    ]
    with site.store.engine.connect() as connection:
        columns = (deliveries.c.id, deliveries.c.received_at, deliveries.c.state, deliveries.c.resource)
        stored = {row.id: tuple(row)[1:] for row in connection.execute(select(*columns))}
    assert stored[UUID(int=7)] == (datetime(2026, 11, 1, tzinfo=UTC), "pending", "crm/contacts")
    assert site.inbox.read_body(UUID(int=8)).endswith(b'"\xff"}}')
    assert {resource for *_, resource in stored.values()} == {"crm/contacts"}


def test_a_bare_body_gets_the_same_id_as_when_truto_sends_it(site: ReplaySetup) -> None:
    body = body_of(5)
    mac = bytes.fromhex(sign(body, SECRET).partition("v=")[2])
    site.inbox.put([make_incoming(body, mac, datetime.now(UTC))])

    code, out, _ = site.replay("--from", "-", stdin=body)

    assert (code, out) == (0, "0 new deliveries, 1 duplicate, 0 lines skipped.\n")


def test_all_whole_lines_of_a_truncated_file_are_imported(site: ReplaySetup, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=0) as file:
        file.write(b"\n".join(body_of(number) for number in range(500)))
    (tmp_path / "cut.gz").write_bytes(packed.getvalue()[: len(packed.getvalue()) // 2])

    code, out, err = site.replay("--from", str(tmp_path / "cut.gz"), "--json")

    assert code == 1
    assert 200 < json.loads(out)["new"] < 260
    assert "the file is truncated here" in err


def test_bodies_up_to_the_limit_are_imported_and_longer_ones_skipped(
    site: ReplaySetup, tmp_path: Path
) -> None:
    def padded(size: int) -> bytes:
        body = body_of(1)[:-1] + b', "pad": "'
        return body + b"x" * (size - len(body) - 2) + b'"}'

    longest = 32 * 1024 * 1024
    with (tmp_path / "long.jsonl").open("wb") as file:
        for line in (
            padded(longest),
            padded(longest + 1),
            make_exported_line(9, datetime.now(UTC), padded(longest)),
            b"x" * (longest * 4 + 70_000),
            body_of(2),
        ):
            file.write(line + b"\n")

    code, out, err = site.replay("--from", str(tmp_path / "long.jsonl"), "--json")

    assert code == 1
    assert json.loads(out)["new"] == 3, err
    assert [line.partition(":")[0] for line in err.splitlines()] == ["line 2", "line 4"]


def test_another_receiver_gets_all_deliveries_in_order(site: ReplaySetup) -> None:
    ids = site.put(range(20))
    failures = {"e2": 2, "e4": 99}

    def answer(event: dict[str, Any], earlier_count: int) -> int:
        return 503 if earlier_count < failures.get(event["id"], 0) else 200

    with running_receiver(answer) as other:
        code, out, err = site.replay("--all", "--to", other.url, "--json")

    assert code == 1
    counts = json.loads(out)
    assert (counts["deliveries"], counts["not_accepted"]) == (20, 1)
    assert counts["responses"] == {"accepted": 18, "duplicate": 1, "failed": 6}
    assert err == f"{ids[4]}: 503\n"
    received = [event["id"] for event in other.events]
    assert list(dict.fromkeys(received)) == [f"e{number}" for number in range(20)]
    assert site.states() == {"pending": 20}


def test_forwarding_ends_at_the_first_rejected_signature(site: ReplaySetup) -> None:
    site.put(range(20))

    with running_receiver() as other:
        code, out, err = site.replay("--all", "--to", other.url, "--secret", "another", "--json")

    assert code == 1
    assert len(other.forged) == 1
    assert json.loads(out)["is_finished"] is False
    assert json.loads(out)["deliveries"] == 0
    assert "The receiver answered 401" in err
    assert "with the secret from --secret" in " ".join(err.split())


def test_forwarding_to_an_unreachable_receiver_exits_3(site: ReplaySetup) -> None:
    site.put([1])

    code, out, err = site.replay("--all", "--to", "http://127.0.0.1:9/webhooks/truto")

    assert (code, out) == (3, "")
    assert "No server answers" in err


@pytest.mark.parametrize("time", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+05:00", "soon"])
def test_a_line_with_an_impossible_time_is_skipped_alone(site: ReplaySetup, time: str) -> None:
    line = make_exported_line(7, datetime.now(UTC), body_of(1))
    lines = json.dumps(json.loads(line) | {"received_at": time}).encode() + b"\n" + line

    code, out, err = site.replay("--from", "-", "--json", stdin=lines)

    assert code == 1
    assert json.loads(out)["new"] == 1, err
    assert err.startswith("line 1: ")
    assert "received_at" in err


def test_an_imported_delivery_was_received_at_the_latest_now(site: ReplaySetup) -> None:
    line = make_exported_line(7, datetime(2999, 1, 1, tzinfo=UTC), body_of(1))

    code, _, _ = site.replay("--from", "-", stdin=line)

    with site.store.engine.connect() as connection:
        assert connection.execute(select(deliveries.c.received_at)).scalar_one() <= datetime.now(UTC)
    assert code == 0


def test_exported_deliveries_need_no_secret_and_bare_bodies_do(site: ReplaySetup) -> None:
    site.secret = ""

    exported = site.replay("--from", "-", stdin=make_exported_line(7, datetime.now(UTC), body_of(1)))
    bare = site.replay("--from", "-", stdin=body_of(2))

    assert (exported[0], bare[0]) == (0, 2)
    assert "TRUTO_WEBHOOK_SECRET: not set" in bare[2]
