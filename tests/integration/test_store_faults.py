"""Faults of the store: never a 500, and one sentence from every process."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from redis import Redis

from app.config.database_identity import derive_namespace
from app.config.routes import Route
from app.database.engine import open_database
from app.errors import StoreUnavailable
from app.redis.spool import Spool
from app.sinks.sql.sink import SqlSink
from app.store.inbox import Inbox
from app.store.migrate import migrate
from tests.integration.test_doctor import run_doctor
from tests.integration.test_failover_inbox import body
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT, Command
from tests.support.sent_records import send, write
from tests.support.valkey import ValkeyServer
from tests.support.web_process import SECRET, WebProcess, make_environment

BROKEN = {
    "missing column": "ALTER TABLE rapidbridge_deliveries DROP COLUMN method",
    "wrong type": "ALTER TABLE rapidbridge_deliveries ALTER resource DROP DEFAULT, ALTER resource TYPE int USING 0",
    "refusing check": "ALTER TABLE rapidbridge_deliveries ADD CONSTRAINT never CHECK (false) NOT VALID",
    "no key": "ALTER TABLE rapidbridge_deliveries DROP CONSTRAINT rapidbridge_deliveries_pkey CASCADE",
    "no table": "DROP TABLE rapidbridge_deliveries CASCADE",
    "error of a trigger": """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P0001'; END $$;
        CREATE TRIGGER fail BEFORE INSERT ON rapidbridge_deliveries FOR EACH ROW EXECUTE FUNCTION fail()
    """,
    "no answer with rows": """
        CREATE RULE nothing AS ON INSERT TO rapidbridge_deliveries DO INSTEAD NOTHING
    """,
    "unknown value": """
        CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.id := gen_random_uuid(); RETURN NEW; END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON rapidbridge_deliveries FOR EACH ROW EXECUTE FUNCTION spoil()
    """,
}


@pytest.fixture
def url(private_postgres: PostgresServer) -> Iterator[str]:
    with private_postgres.database() as url:
        yield url


def migrate_store(url: str) -> None:
    database = open_database(url)
    migrate(database)
    database.close()


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_of_the_store_is_spooled_or_503_and_never_500(
    url: str, private_valkey: ValkeyServer, private_redis: Redis, tmp_path: Path, fault: str
) -> None:
    migrate_store(url)
    execute(url, BROKEN[fault])
    with WebProcess(tmp_path, database_url=url, redis_url=private_valkey.url) as web:
        spooled = [web.post(body(f"{number} 😀", records=[{"id": "😀"}])) for number in range(3)]
        ready = web.request("GET", "/readyz")
        number = Spool(private_redis, derive_namespace(url)).count()
        private_valkey.kill()
        refused = [web.post(body(f"late {number}")) for number in range(2)]
        log = web.log

    assert {(answer.http_status, answer.status) for answer in spooled} == {(200, "accepted")}
    assert number == 3
    assert ready.http_status == 503
    assert {(answer.http_status, answer.status) for answer in refused} == {(503, "unavailable")}
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    assert "Traceback" not in log
    assert "😀" not in log


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_of_another_encoding_loses_no_delivery(
    url: str, private_valkey: ValkeyServer, private_redis: Redis, tmp_path: Path, encoding: str
) -> None:
    name = f"web_{encoding.lower()}"
    execute(
        url, f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    encoded_url = re.sub("@/[a-z0-9_]+", f"@/{name}", url)
    try:
        with WebProcess(tmp_path, database_url=encoded_url, redis_url=private_valkey.url) as web:
            answer = web.post(body("😀", resource="crm/😀", records=[{"id": "😀"}]))
            log = web.log
    finally:
        execute(url, f"DROP DATABASE {name} WITH (FORCE)")

    assert (answer.http_status, answer.status) == (200, "accepted")
    assert Spool(private_redis, derive_namespace(encoded_url)).count() == 1
    assert "Traceback" not in log


def test_a_run_may_start_while_the_gate_cannot_query_the_store(
    url: str, private_valkey: ValkeyServer, private_redis: Redis, tmp_path: Path
) -> None:
    migrate_store(url)
    execute(
        url, "ALTER TABLE rapidbridge_runs ALTER sync_job_id DROP DEFAULT, ALTER sync_job_id TYPE int USING 0"
    )
    (tmp_path / "routes.toml").write_text(
        '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n[gate]\noverlapping = true\noldest_pending_s = 1\n'
    )
    started = body("1", "sync_job_run:started", id="run", sync_job_id="job", integrated_account_id="account")
    with WebProcess(
        tmp_path,
        database_url=url,
        redis_url=private_valkey.url,
        ROUTES_FILE=str(tmp_path / "routes.toml"),
    ) as web:
        answers = [web.post(started), web.post(started)]
        log = web.log

    assert {answer.http_status for answer in answers} == {200}
    assert "gate.skipped" in log
    assert "Traceback" not in log


def test_one_character_that_a_sink_cannot_store_rejects_one_record(url: str) -> None:
    execute(url, "CREATE DATABASE latin1 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    sink = SqlSink(re.sub("@/[a-z0-9_]+", "@/latin1", url))
    records = [{"id": str(number), "name": "ä"} for number in range(8)]
    records[3] = {"id": "3", "name": "😀"}
    try:
        result = write(sink, send(records), Route(sinks=("main",)))
    finally:
        sink.close()
        execute(url, "DROP DATABASE latin1 WITH (FORCE)")

    assert result.written == 7
    assert [(record.ordinal, record.reason) for record in result.rejected] == [(3, "unstorable_text")]


def _find_sentence(text: str) -> str:
    """Return the diagnosis in a log, or in an output that is wrapped."""
    match = re.search(
        r"the database in DATABASE_URL failed: ([^\"\n]+(?:\n  [^\n]+)*)", text.replace('\\"', "'")
    )
    assert match, text
    return re.sub(r"\s+", " ", match[1]).replace('"', "'").strip().rstrip("'")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("closed port", "no server listens there"),
        ("unknown host", "no such host"),
        ("unknown database", "no such database"),
        ("unknown role", "no such role"),
        ("role without login", "the role may not log in"),
        ("role without rights", "the role lacks a right (42501)"),
        ("role without connections", "no connection is free"),
        ("role that may not connect", "the role may not connect to the database"),
    ],
)
def test_every_process_names_a_fault_in_the_same_words(
    url: str, private_valkey: ValkeyServer, tmp_path: Path, fault: str, words: str
) -> None:
    migrate_store(url)
    database = url.partition("@/")[2].partition("?")[0]
    execute(
        url,
        "DROP ROLE IF EXISTS guest",
        f"CREATE ROLE guest {'NOLOGIN' if fault == 'role without login' else 'LOGIN'}"
        + (" CONNECTION LIMIT 0" if fault == "role without connections" else ""),
    )
    if fault == "role that may not connect":
        execute(url, f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC")
    as_guest = url.replace("postgres@", "guest@")
    broken_url = {
        "closed port": "postgres://guest@127.0.0.1:1/d",
        "unknown host": "postgres://guest@no-such-host.invalid/d",
        "unknown database": url.replace(database, "nowhere"),
        "unknown role": url.replace("postgres@", "nobody_at_all@"),
    }.get(fault, as_guest)
    settings = make_environment(
        DATABASE_URL=broken_url, REDIS_URL=private_valkey.url, TRUTO_WEBHOOK_SECRET=SECRET
    )

    migrated = subprocess.run(
        [sys.executable, "-m", "app.cli", "migrate"],
        cwd=tmp_path,
        env=settings | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    with WebProcess(tmp_path, database_url=broken_url, redis_url=private_valkey.url) as web:
        assert web.post(body("1")).http_status == 200
        web_log = web.log
    with Command(["app.cli", "worker"], folder=tmp_path, environment=settings) as worker:
        worker.wait_for("the database in DATABASE_URL failed")
        worker_log = worker.log
    doctor = run_doctor(
        tmp_path, "--json", "--no-post", DATABASE_URL=broken_url, REDIS_URL=private_valkey.url
    )
    execute(url, "DROP ROLE guest")

    assert migrated.returncode == 3, migrated.stdout + migrated.stderr
    sentence = _find_sentence(migrated.stderr)
    assert sentence.startswith(words)
    assert sentence == _find_sentence(web_log)
    assert sentence == _find_sentence(worker_log)
    [store] = [
        result
        for result in json.loads(doctor.stdout)["checks"]
        if (result["component"], result["check"], result["level"]) == ("store", "reachable", "fail")
    ]
    assert words in store["message"]
    assert store["advice"].lower() in sentence.lower()
    for text in (migrated.stderr, web_log, worker_log):
        assert "Traceback" not in text


@pytest.mark.parametrize("has_tables", [False, True])
def test_the_command_for_a_missing_right_is_sufficient(url: str, has_tables: bool) -> None:
    if has_tables:
        migrate_store(url)
    execute(url, "CREATE ROLE guest LOGIN")
    database = open_database(url.replace("postgres@", "guest@"))
    try:
        with pytest.raises(StoreUnavailable) as refused:
            migrate(database)
        execute(url, *str(refused.value).partition("run as the owner: ")[2].split(";")[:2])

        migrate(database)
        assert Inbox(database).count_by_state() == {"duplicate": 0}
    finally:
        database.close()
        execute(url, "DROP OWNED BY guest CASCADE", "DROP ROLE guest")
