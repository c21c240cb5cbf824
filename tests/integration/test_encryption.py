"""Encryption through the public surface: HTTP, Redis, the workers and `rapidbridge keys`."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from redis import Redis
from sqlalchemy import select, text

from app.database.engine import open_database
from app.encryption import EncryptionKey, Keyring, find_key_id
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.store.schema import deliveries
from tests.support.commands import run_command
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT, Command
from tests.support.redis_keys import namespace_of, open_spool
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, WebProcess, make_environment, read_procfile_command

OLD, NEW = b"o" * 32, b"n" * 32
OLD_ID, NEW_ID = EncryptionKey.build(OLD).id, EncryptionKey.build(NEW).id
NAME = "Ada Lovelace"


def format_keys(*secrets: bytes | str) -> str:
    return ",".join(key if isinstance(key, str) else base64.b64encode(key).decode() for key in secrets)


class Receiver:
    """A store, and the settings of its processes."""

    def __init__(self, folder: Path, url: str, redis_url: str) -> None:
        self.folder, self.url = folder, url
        self.settings = {"DATABASE_URL": url, "REDIS_URL": redis_url, "TRUTO_WEBHOOK_SECRET": SECRET}
        self.store = open_database(url)
        migrate(self.store)

    def web(self, *secrets: bytes | str) -> WebProcess:
        redis_url = self.settings["REDIS_URL"]
        return WebProcess(
            self.folder, database_url=self.url, redis_url=redis_url, ENCRYPTION_KEYS=format_keys(*secrets)
        )

    def worker(self, *secrets: bytes | str) -> Command:
        settings = make_environment(**self.settings, ENCRYPTION_KEYS=format_keys(*secrets))
        return Command(["app.cli", "worker", "-n", "1"], folder=self.folder, environment=settings)

    def run(self, *words: str, keys: tuple[bytes | str, ...]) -> "subprocess.CompletedProcess[str]":
        settings = make_environment(**self.settings, ENCRYPTION_KEYS=format_keys(*keys))
        return run_command(*words, cwd=self.folder, environment=settings)

    def list_key_ids(self) -> list[str | None]:
        """Return the key id of every stored body, the oldest first."""
        rows = self.store.read(select(deliveries.c.body).order_by(deliveries.c.received_at))
        return [find_key_id(bytes(row.body)) for row in rows]

    def count_settled(self) -> int:
        return Inbox(self.store).count_by_state().get("settled", 0)


@pytest.fixture
def receiver(
    tmp_path: Path, private_postgres: PostgresServer, private_valkey: ValkeyServer
) -> Iterator[Receiver]:
    with private_postgres.database() as url:
        made = Receiver(tmp_path, url, private_valkey.url)
        yield made
        made.store.close()


def page(name: str) -> bytes:
    payload: dict[str, Any] = {"integrated_account_id": "a", "resource": "crm/contacts", "method": "list"}
    payload["records"] = [{"id": name, "name": NAME}]
    return json.dumps({"id": name, "event": "sync_job_run:record", "payload": payload}).encode()


def spool_page(receiver: Receiver, postgres: PostgresServer) -> None:
    """Receive a page with the old key while the database is down."""
    with receiver.web(OLD) as web:
        postgres.kill()
        try:
            assert web.post(page("1")).status == "accepted"
        finally:
            postgres.start()
    receiver.store.close()


def test_a_delivery_is_stored_encrypted_and_its_records_reach_the_sink(receiver: Receiver) -> None:
    with receiver.web(OLD) as web, receiver.worker(OLD) as worker:
        assert web.post(page("1")).status == "accepted"
        assert web.post(page("1")).status == "duplicate"
        wait_until(lambda: receiver.count_settled() == 1, what=lambda: worker.log)

    assert receiver.list_key_ids() == [OLD_ID]
    [row] = receiver.store.read(text("SELECT data FROM crm_contacts"))
    assert row.data["name"] == NAME
    shown = receiver.run("deliveries", "export", keys=(OLD,))
    assert NAME in shown.stdout
    for log in (web.log, worker.log, shown.stderr):
        assert format_keys(OLD) not in log
    listed = receiver.run("keys", "list", keys=(OLD,))
    assert listed.stdout.splitlines()[1].startswith(f"{OLD_ID}  encrypts and decrypts")


def test_a_spooled_delivery_is_encrypted_in_redis_and_reaches_the_inbox(
    receiver: Receiver, private_postgres: PostgresServer, private_redis: Redis
) -> None:
    spool = open_spool(private_redis, receiver.store)
    spool_page(receiver, private_postgres)

    [(_, fields)] = cast("list[tuple[bytes, dict[bytes, bytes]]]", private_redis.xrange(spool.key))
    assert find_key_id(fields[b"body"]) == OLD_ID
    assert NAME.encode() not in b"".join(fields.values())
    with receiver.worker(NEW, OLD) as worker:
        wait_until(lambda: receiver.count_settled() == 1, timeout_s=30, what=lambda: worker.log)
    assert receiver.list_key_ids() == [NEW_ID]


def test_a_spooled_delivery_whose_key_is_missing_is_set_aside_and_comes_back(
    receiver: Receiver, private_postgres: PostgresServer, private_redis: Redis
) -> None:
    spool = open_spool(private_redis, receiver.store)
    spool_page(receiver, private_postgres)
    with receiver.worker(NEW) as worker:
        wait_until(lambda: spool.count_unreadable() == 1, timeout_s=30, what=lambda: worker.log)
        worker.wait_for("key_missing=1")

    kept = receiver.run("keys", "rotate", keys=(NEW, OLD))
    assert kept.returncode == 1
    assert f"1 delivery in Redis still encrypted with another key: {OLD_ID} must" in kept.stderr
    adopted = receiver.run("migrate", "--adopt-spool", namespace_of(receiver.store), keys=(NEW, OLD))

    assert "Moved 1 delivery to the inbox" in adopted.stdout
    assert receiver.list_key_ids() == [NEW_ID]
    assert NAME in receiver.run("deliveries", "export", keys=(NEW,)).stdout


def test_no_process_starts_without_a_key_that_stored_data_needs(receiver: Receiver) -> None:
    with receiver.web(OLD) as web:
        assert web.post(page("1")).status == "accepted"

    for secrets in ((), (NEW,)):
        environment = make_environment(
            **receiver.settings, PORT="0", ENCRYPTION_KEYS=format_keys(*secrets), WEB_CONCURRENCY="1"
        )
        environment["PORT"] = str(web.port)
        for command in (read_procfile_command("web"), [sys.executable, "-m", "app.cli", "worker"]):
            ended = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            output = " ".join((ended.stdout + ended.stderr).split())
            assert ended.returncode in (2, 3), output
            assert (
                f"ENCRYPTION_KEYS: stored data is encrypted with keys that are not set: {OLD_ID}." in output
            )
            assert "Traceback" not in output
        doctor = receiver.run("doctor", "--no-post", keys=secrets)
        assert f"encrypted with keys that are not set: {OLD_ID}" in " ".join(doctor.stdout.split())
    assert receiver.list_key_ids() == [OLD_ID]


def test_a_process_that_started_before_the_database_names_the_missing_key(
    receiver: Receiver, private_postgres: PostgresServer
) -> None:
    receiver.store.keyring = Keyring((EncryptionKey.build(OLD),))
    Inbox(receiver.store).put([])
    with receiver.web(OLD) as web:
        assert web.post(page("1")).status == "accepted"
    receiver.store.close()
    private_postgres.kill()
    try:
        with receiver.web(NEW) as web:
            private_postgres.start()

            def read_store_check() -> str:
                return str(httpx.get(f"{web.url}/readyz", timeout=20).json()["store"])

            wait_until(
                lambda: (
                    read_store_check()
                    == "it has data encrypted with a key that is not set; run: rapidbridge keys list"
                ),
                timeout_s=30,
                what=read_store_check,
            )
    finally:
        private_postgres.stop()
        private_postgres.start()


def test_keys_are_rotated_under_traffic_and_the_old_one_is_needed_no_more(receiver: Receiver) -> None:
    with receiver.web(OLD) as web, receiver.worker(OLD) as worker:
        for number in range(5):
            assert web.post(page(f"old {number}")).status == "accepted"
        wait_until(lambda: receiver.count_settled() == 5, what=lambda: worker.log)

        # The processes have not been restarted yet.
        early = receiver.run("keys", "rotate", keys=(NEW, OLD))
        assert early.returncode == 0, early.stderr
        assert f"No stored data needs {OLD_ID} any more" in " ".join(early.stdout.split())

    with receiver.web(NEW, OLD) as web, receiver.worker(NEW, OLD) as worker:
        for number in range(5):
            assert web.post(page(f"new {number}")).status == "accepted"
        wait_until(lambda: receiver.count_settled() == 10, what=lambda: worker.log)

    dry = receiver.run("keys", "rotate", "--dry-run", keys=(NEW, OLD))
    assert dry.stdout == f"Would store 0 rows again, with key {NEW_ID}.\n"
    assert receiver.list_key_ids() == [NEW_ID] * 10
    exported = receiver.run("deliveries", "export", keys=(NEW,))
    assert exported.stdout.count(NAME) == 10
    audited = receiver.store.read(text("SELECT action FROM rapidbridge_audit_log"))
    assert [row.action for row in audited] == ["keys.rotate"]


def test_an_entry_with_a_foreign_key_blocks_nothing(
    receiver: Receiver, private_redis: Redis, private_postgres: PostgresServer
) -> None:
    spool = open_spool(private_redis, receiver.store)
    forged = Keyring((EncryptionKey.build(b"f" * 32),)).encrypt(b"body", b"")
    private_redis.xadd(spool.key, {"header": json.dumps({"digest": "00" * 32}), "body": forged, "seal": ""})
    spool_page(receiver, private_postgres)
    with receiver.worker(OLD) as worker:
        wait_until(lambda: receiver.count_settled() == 1, timeout_s=30, what=lambda: worker.log)
    assert spool.count_unreadable() == 1


def test_a_generated_key_is_a_setting(receiver: Receiver) -> None:
    made = receiver.run("keys", "generate", keys=())

    key = made.stdout.strip()
    assert len(base64.b64decode(key)) == 32
    assert made.stdout != receiver.run("keys", "generate", keys=()).stdout
    assert receiver.run("keys", "list", keys=(key,)).returncode == 0
    refused = receiver.run("keys", "rotate", keys=())
    assert refused.returncode == 2
    assert "ENCRYPTION_KEYS: not set." in refused.stderr
