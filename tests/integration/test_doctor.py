"""`rapidbridge doctor` against real servers, healthy and broken."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis
from sqlalchemy import text

from app.cli.local.ports import find_free_port
from app.config.routes import ColumnConfig, Route
from app.database.engine import open_database, open_engine
from app.sinks.base import Batch
from app.sinks.sql.sink import SqlSink
from app.store.migrate import migrate
from app.store.schema import VERSION_TABLE
from tests.integration.test_simulated_api import TOKEN, finished_runs
from tests.support.commands import run_command
from tests.support.fake_receiver import running_receiver
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT
from tests.support.sent_records import send
from tests.support.service import running_whole_service
from tests.support.valkey import ValkeyServer
from tests.support.waiting import measure_slowdown, wait_until
from tests.support.web_process import SECRET, WebProcess, make_environment

HIDDEN = "hunter2-never-shown"


@dataclass(frozen=True, slots=True)
class DoctorOutput:
    """Exit code, results and standard output of `doctor --json`."""

    code: int
    results: list[dict[str, str]]
    text: str

    def levels(self, component: str) -> dict[str, str]:
        """Return the levels other than ok of a component, by check."""
        return {
            result["check"]: result["level"]
            for result in self.results
            if result["component"] == component and result["level"] != "ok"
        }

    def message(self, component: str, check: str) -> str:
        """Return message and advice of the one result of a check that is not ok."""
        [result] = [
            result
            for result in self.results
            if (result["component"], result["check"]) == (component, check) and result["level"] != "ok"
        ]
        return result["message"] + " -> " + result["advice"]

    def ok_checks(self, component: str) -> set[str]:
        """Return the checks of a component that are ok."""
        return {
            result["check"]
            for result in self.results
            if result["component"] == component and result["level"] == "ok"
        }


def run_doctor(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    variables = {"TRUTO_WEBHOOK_SECRET": SECRET, **settings}
    environment = make_environment(**{name: value for name, value in variables.items() if value})
    return run_command("doctor", *words, cwd=folder, environment=environment)


def list_documented_checks() -> set[tuple[str, str]]:
    page = (ROOT / "docs/operations.md").read_text()
    table = page.partition("\n| component | checks |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\w+) \| ((?:`\w+`,? ?)+)", table, re.MULTILINE)
    return {(component, check) for component, checks in rows for check in re.findall(r"`(\w+)`", checks)}


def doctor(folder: Path, *words: str, **settings: str) -> DoctorOutput:
    """Run `doctor --json`, and verify the invariants of its output."""
    ran = run_doctor(folder, "--json", *words, **settings)
    assert ran.stderr == ""
    output: dict[str, Any] = json.loads(ran.stdout)
    results = output["checks"]
    levels = {result["level"] for result in results}
    assert ran.returncode == (1 if "fail" in levels else 0)
    assert output["ok"] == (ran.returncode == 0)
    assert levels <= {"ok", "warn", "fail"}
    assert all(bool(result["advice"]) == (result["level"] != "ok") for result in results)
    reported = {(result["component"].split()[0], result["check"]) for result in results}
    documented = list_documented_checks()
    assert all({(component, check), ("any", check)} & documented for component, check in reported)
    return DoctorOutput(ran.returncode, results, ran.stdout)


def migrated(url: str) -> str:
    store = open_database(url)
    migrate(store)
    store.close()
    return url


@pytest.fixture
def durable_valkey() -> Iterator[ValkeyServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = ValkeyServer(Path(folder), "--appendonly", "yes")
        yield server
        server.stop()


@pytest.fixture
def durable_postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder), is_durable=True)
        yield server
        server.stop()


def test_a_complete_installation_passes_every_check(
    durable_postgres: PostgresServer, durable_valkey: ValkeyServer, tmp_path: Path
) -> None:
    with (
        durable_postgres.database() as url,
        running_receiver() as receiver,
        finished_runs(receiver, records=1) as runs,
    ):
        webhook = runs.api.create_webhook("https://sync.example.com/webhooks/truto", ["sync_job_run:*"])
        settings = {"REDIS_URL": durable_valkey.url, "TRUTO_WEBHOOK_SECRET": f"{webhook.id}={webhook.secret}"}
        with running_whole_service(tmp_path, url, **settings) as service:
            wait_until(lambda: bool(Redis.from_url(durable_valkey.url).scard("rq:workers")), what="a worker")
            output = doctor(tmp_path, **service.settings, TRUTO_API_URL=runs.url, TRUTO_API_TOKEN=TOKEN)

    # A machine that is busy with tests may be slow.
    failed = {result["check"] for result in output.results if result["level"] != "ok"}
    assert failed <= {"latency"}, output.text
    assert output.code == 0
    assert output.ok_checks("receiver") == {"responds", "settled", "ready"}
    assert output.ok_checks("truto") == {"token", "webhook"}
    assert output.ok_checks("store") >= {
        "reachable",
        "durability",
        "clock",
        "connections",
        "tables",
        "backlog",
    }
    assert output.ok_checks("redis") >= {"reachable", "eviction", "memory", "persistence", "spool"}
    assert output.ok_checks("workers") == {"alive", "jobs", "config"}
    assert output.ok_checks("sink main") == {"writable"}
    assert webhook.secret not in output.text


def test_an_empty_folder_gets_advice_and_stays_empty(tmp_path: Path) -> None:
    output = doctor(tmp_path, TRUTO_WEBHOOK_SECRET="")

    assert output.code == 1
    assert output.levels("settings") == {"secret": "fail"}
    assert "rapidbridge migrate" in output.message("store", "reachable")
    assert output.levels("redis") == {"reachable": "warn"}
    assert output.levels("sink main") == {}
    assert list(tmp_path.iterdir()) == []


def test_before_the_start_of_its_processes_an_installation_passes(
    durable_postgres: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    # Not SQLite: the folder of the tests may be in memory, which is a failure.
    with durable_postgres.database() as url:
        settings = {"DATABASE_URL": migrated(url), "REDIS_URL": redis_url}
        output = doctor(tmp_path, "--setup-only", **settings)
        text = run_doctor(tmp_path, "--setup-only", **settings).stdout
        without = doctor(tmp_path, "--no-post", **settings)

    assert output.code == 0, output.text
    assert output.levels("workers") == {"alive": "warn"}
    assert output.levels("receiver") == {}
    assert "not checked: no worker is alive yet" in output.message("workers", "alive")
    assert "Not checked: whether a receiver accepts deliveries." in text
    assert "Not checked:\n  workers: no worker is alive yet\n  truto: TRUTO_API_TOKEN is not set\n" in text
    assert without.levels("workers") == {"alive": "fail"}


def test_checks_that_need_a_server_that_is_away_are_named(tmp_path: Path) -> None:
    settings = {"DATABASE_URL": f"postgres://u:{HIDDEN}@127.0.0.1:1/d", "REDIS_URL": "redis://127.0.0.1:1"}

    output = json.loads(run_doctor(tmp_path, "--no-post", "--json", **settings).stdout)
    text = run_doctor(tmp_path, "--no-post", **settings).stdout

    assert output["not_checked"] == [
        "truto: TRUTO_API_TOKEN is not set",
        "requests: needs a server that is unavailable",
        "workers: needs a server that is unavailable",
    ]
    assert "\n  ".join(["Not checked:", *output["not_checked"]]) in text


def test_before_the_start_there_is_no_receiver_to_test(tmp_path: Path) -> None:
    ran = run_doctor(tmp_path, "--setup-only", "--url", "https://h.example/webhooks/truto")

    assert ran.returncode == 2
    assert "exclude each other" in ran.stderr


def test_a_store_without_tables_is_reported(empty_url: str, redis_url: str, tmp_path: Path) -> None:
    empty = open_database(empty_url)
    empty.engine.connect().close()
    empty.close()

    output = doctor(tmp_path, "--no-post", DATABASE_URL=empty_url, REDIS_URL=redis_url)

    assert "rapidbridge migrate" in output.message("store", "tables")
    assert "reachable" in output.ok_checks("store")


def test_the_tables_of_a_newer_release_are_reported(store_url: str, redis_url: str, tmp_path: Path) -> None:
    store = open_database(migrated(store_url))
    with store.engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    store.close()

    output = doctor(tmp_path, "--no-post", DATABASE_URL=store_url, REDIS_URL=redis_url)
    ran = run_command("migrate", cwd=tmp_path, environment=make_environment(DATABASE_URL=store_url))

    assert (ran.returncode, ran.stdout) == (
        0,
        "A newer release has migrated the database (revision 9999): nothing to do.\n",
    )
    assert output.levels("store")["tables"] == "warn"
    assert "newer release" in output.message("store", "tables")


def test_a_postgresql_without_fsync_is_reported(postgres_url: str, tmp_path: Path) -> None:
    output = doctor(tmp_path, "--no-post", DATABASE_URL=migrated(postgres_url))

    assert output.levels("store") == {"durability": "fail"}
    assert "fsync" in output.message("store", "durability")


def test_a_role_without_privileges_is_reported(postgres: PostgresServer, tmp_path: Path) -> None:
    with postgres.database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS guest")
            connection.execute("CREATE ROLE guest LOGIN CONNECTION LIMIT 5")
        output = doctor(tmp_path, "--no-post", DATABASE_URL=url.replace("postgres@", "guest@"))
        with psycopg.connect(migrated(url), autocommit=True) as connection:
            connection.execute("GRANT CREATE ON SCHEMA public TO guest")
            connection.execute("CREATE TABLE rapidbridge_sink_tables AS SELECT 'theirs' AS table_name")
            connection.execute("CREATE TABLE theirs ()")
            connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest")
        closed = doctor(tmp_path, "--no-post", DATABASE_URL=url.replace("postgres@", "guest@"))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("GRANT INSERT, UPDATE ON theirs TO guest")
        opened = doctor(tmp_path, "--no-post", DATABASE_URL=url.replace("postgres@", "guest@"))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP OWNED BY guest")
            connection.execute("DROP ROLE guest")

    assert "may not create tables in public" in output.message("sink main", "writable")
    assert "5 connections available" in output.message("store", "connections")
    assert "may not write to tables" in closed.message("sink main", "writable")
    assert opened.levels("sink main") == {}


def test_columns_that_differ_from_the_routes_are_reported(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text(
        """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"
[[routes]]
resource = "crm/*"
sinks = ["main"]
columns = { zip = "text", n = "number" }
[[routes]]
resource = "theirs"
sinks = ["main"]
"""
    )
    sink = SqlSink(migrated(store_url))
    old = Route(
        sinks=("main",), columns={"zip": ColumnConfig(type="integer"), "n": ColumnConfig(type="integer")}
    )
    sink.write(make_batch("crm/contacts", {"id": "1", "zip": 1}), old)
    sink.close()
    engine = open_engine(store_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE theirs (id integer)")
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("CREATE INDEX indexed ON theirs (id)")
    engine.dispose()

    output = doctor(tmp_path, "--no-post", DATABASE_URL=store_url)

    found = {
        r["message"]: r for r in output.results if (r["component"], r["check"]) == ("sink main", "table")
    }
    wrong = next(message for message in found if "column zip" in message)
    assert "table crm_contacts: column zip has the type" in wrong
    assert " instead of text" in wrong.lower()
    assert "ALTER TABLE" in found[wrong]["advice"]
    assert any("column n has the type" in message for message in found)
    taken = next(message for message in found if "theirs" in message)
    assert "was not created by this sink" in taken
    assert {found[wrong]["level"], found[taken]["level"]} == {"fail"}
    assert output.code == 1


def make_batch(resource: str, *records: Any) -> Batch:
    return send(records, resource=resource).build_batch(Route(sinks=("main",)))


def test_a_read_only_database_is_reported(postgres_url: str, tmp_path: Path) -> None:
    migrated(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())

    output = doctor(tmp_path, "--no-post", DATABASE_URL=postgres_url)

    assert output.levels("store").get("writable") == "fail"
    assert "read-only" in output.message("sink main", "writable")


@pytest.mark.parametrize("words", [("--json",), ()])
def test_a_wrong_password_is_reported_and_not_shown(
    private_postgres: PostgresServer,
    private_valkey: ValkeyServer,
    private_redis: Redis,
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    rules = private_postgres._data_folder / "pg_hba.conf"
    kept = rules.read_text()
    private_redis.config_set("requirepass", "another")
    with private_postgres.database() as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
        rules.write_text(f"local all locked scram-sha-256\n{kept}")
        connection.execute("SELECT pg_reload_conf()")
        ran = run_doctor(
            tmp_path,
            *words,
            DATABASE_URL=url.replace("postgres@", f"locked:{HIDDEN}@"),
            REDIS_URL=private_valkey.url.replace("unix://", f"unix://:{HIDDEN}@"),
        )
        rules.write_text(kept)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP ROLE locked")

    assert ran.returncode == 1
    assert HIDDEN not in ran.stdout + ran.stderr
    assert "wrong password" in " ".join(ran.stdout.split())
    assert "wrong user or password" in " ".join(ran.stdout.split())


@pytest.mark.parametrize(
    "settings",
    [
        {"DATABASE_URL": f"postgres://u:{HIDDEN}@127.0.0.1:1/d"},
        {"DATABASE_URL": f"postgres://u:{HIDDEN}@no-such-host.invalid/d?sslpassword={HIDDEN}"},
        {"DATABASE_URL": f"postgres://u@127.0.0.1:1/d?password={HIDDEN}"},
        {"DATABASE_URL": f"postgres://u:{HIDDEN}@127.0.0.1:port/d"},
        {"DATABASE_URL": f"mysql://u:{HIDDEN}@h/d"},
        {"REDIS_URL": f"redis://u:{HIDDEN}@127.0.0.1:1/0"},
        {"REDIS_URL": f"rediss://u:{HIDDEN}@127.0.0.1:1/0?x={HIDDEN}", "REDIS_TLS_VERIFY": "0"},
        {"REDIS_URL": f"redis://u:{HIDDEN}@127.0.0.1:port/0"},
        {"TRUTO_WEBHOOK_SECRET": f"{HIDDEN},w={HIDDEN}"},
        {"TRUTO_WEBHOOK_SECRET": f"your-{HIDDEN}"},
        {"TRUTO_API_TOKEN": HIDDEN, "TRUTO_API_URL": "http://127.0.0.1:1"},
        {"TRUTO_API_TOKEN": HIDDEN, "TRUTO_API_URL": f"http://u:{HIDDEN}@127.0.0.1:1"},
        {"SINK_URL": f"postgres://u:{HIDDEN}@127.0.0.1:1/d"},
    ],
    ids=str,
)
def test_no_secret_is_ever_printed(tmp_path: Path, settings: dict[str, str]) -> None:
    if "SINK_URL" in settings:
        (tmp_path / "routes.toml").write_text('[sinks.a]\ntype = "sql"\nurl = "$SINK_URL"\n')

    ran = run_doctor(
        tmp_path, "--url", f"http://u:{HIDDEN}@127.0.0.1:1/webhooks/truto?k={HIDDEN}", **settings
    )

    assert ran.returncode in (1, 2)
    # A line break within the secret must not hide it from this test.
    assert HIDDEN not in "".join((ran.stdout + ran.stderr).split())
    assert "Traceback" not in ran.stderr
    assert "the check itself failed" not in " ".join(ran.stdout.split())


def test_a_redis_that_evicts_is_reported(
    private_valkey: ValkeyServer, private_redis: Redis, tmp_path: Path
) -> None:
    private_redis.config_set("maxmemory-policy", "allkeys-lru")
    private_redis.config_set("maxmemory", int(private_redis.info("memory")["used_memory"]) + 1000)
    private_redis.config_set("save", "3600 1")
    private_redis.config_set("maxmemory-policy", "allkeys-lru")

    output = doctor(tmp_path, "--no-post", REDIS_URL=private_valkey.url)

    assert output.levels("redis") == {"eviction": "fail", "memory": "fail", "persistence": "warn"}
    assert "noeviction" in output.message("redis", "eviction")
    assert "snapshots" in output.message("redis", "persistence")


def test_missing_workers_and_a_filled_spool_are_reported(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    redis.xadd("rapidbridge:mine:spool", {"header": "x", "body": "y"})
    redis.xadd("rapidbridge:mine:spool:unreadable", {"header": "x"})

    output = doctor(tmp_path, "--no-post", REDIS_URL=redis_url, REDIS_NAMESPACE="mine")

    assert output.levels("workers") == {"alive": "fail"}
    assert "rapidbridge worker" in output.message("workers", "alive")
    assert output.levels("redis") == {"persistence": "warn", "spool": "warn", "unreadable": "warn"}


def test_stalled_servers_are_reported_within_the_timeout(
    private_valkey: ValkeyServer, private_postgres: PostgresServer, tmp_path: Path
) -> None:
    started = time.monotonic()
    with private_postgres.database() as url, private_valkey.stalled(), private_postgres.stalled():
        output = doctor(tmp_path, "--no-post", DATABASE_URL=url, REDIS_URL=private_valkey.url)

    assert time.monotonic() - started < 25 * measure_slowdown()
    assert "fail" in output.levels("store").values()
    assert "fail" in output.levels("sink main").values()
    assert output.levels("redis") == {"reachable": "fail"}
    assert output.levels("settings") == {}


def test_sinks_that_cannot_be_written_are_reported_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "broken.db").write_text("no database" * 100)
    (tmp_path / "routes.toml").write_text(
        f"""
[sinks.good]
type = "files"
url = "file://{tmp_path}/not/there/yet"
[sinks.blocked]
type = "files"
url = "file://{tmp_path}/file/below"
[sinks.closed]
type = "files"
url = "file:///proc/rapidbridge"
[sinks.broken]
type = "sql"
url = "sqlite:///{tmp_path}/broken.db"
"""
    )

    output = doctor(tmp_path, "--no-post")

    assert output.levels("sink good") == {}
    assert output.levels("sink blocked") == {"writable": "fail"}
    assert output.levels("sink closed") == {"writable": "fail"}
    assert "not a SQLite database" in output.message("sink broken", "writable")
    assert not (tmp_path / "not").exists()


def test_an_inactive_webhook_is_reported(tmp_path: Path) -> None:
    with running_receiver() as receiver, finished_runs(receiver, records=1) as runs:
        runs.request("PATCH", f"/webhook/{runs.webhook_id}", json={"is_active": False})
        output = doctor(
            tmp_path,
            "--no-post",
            TRUTO_API_URL=runs.url,
            TRUTO_API_TOKEN=TOKEN,
            TRUTO_WEBHOOK_SECRET=f"{runs.webhook_id}={SECRET}",
        )

    assert output.levels("truto") == {"webhook": "fail", "target": "fail"}
    assert f"rapidbridge webhook reactivate {runs.webhook_id}" in output.message("truto", "webhook")
    assert "HTTPS" in output.message("truto", "target")
    assert output.ok_checks("truto") == {"token"}


def test_an_unknown_token_and_an_unknown_webhook_are_reported(tmp_path: Path) -> None:
    with running_receiver() as receiver, finished_runs(receiver, records=1) as runs:
        wrong_token = doctor(tmp_path, "--no-post", TRUTO_API_URL=runs.url, TRUTO_API_TOKEN=HIDDEN)
        settings = {"TRUTO_API_URL": runs.url, "TRUTO_API_TOKEN": TOKEN}
        unknown_webhook = doctor(tmp_path, "--no-post", TRUTO_WEBHOOK_SECRET=f"nobody={SECRET}", **settings)
        without_webhook = doctor(tmp_path, "--no-post", **settings)
    unreachable = doctor(
        tmp_path, "--no-post", TRUTO_API_URL=f"http://127.0.0.1:{find_free_port()}", TRUTO_API_TOKEN=TOKEN
    )

    assert "401" in wrong_token.message("truto", "token")
    assert HIDDEN not in wrong_token.text
    assert "404" in unknown_webhook.message("truto", "webhook")
    assert without_webhook.levels("truto") == {"webhook": "warn"}
    assert unreachable.levels("truto") == {"reachable": "warn"}


def test_a_receiver_that_is_not_running_gets_advice(tmp_path: Path) -> None:
    port = str(find_free_port())
    output = doctor(tmp_path, PORT=port)
    ran = run_doctor(tmp_path, PORT=port)
    named = doctor(tmp_path, "--url", f"http://127.0.0.1:{port}/webhooks/truto")

    assert output.levels("receiver") == {"responds": "warn"}
    assert "rapidbridge up" in output.message("receiver", "responds")
    assert "--url" in output.message("receiver", "responds")
    # It may run on another machine.
    assert "Not checked: whether a receiver accepts deliveries." in ran.stdout
    assert named.levels("receiver") == {"responds": "fail"}


def test_another_program_at_the_port_is_no_receiver(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        port = str(server.getsockname()[1])

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")

        greeting = pool.submit(greet)
        output = doctor(tmp_path, PORT=port)
        greeting.result()

    assert output.levels("receiver") == {"responds": "fail"}
    assert "does not answer as this receiver does" in output.message("receiver", "responds")


def test_a_receiver_with_another_secret_or_store_is_reported(
    redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    url = migrated(f"sqlite:///{tmp_path}/store.db")
    other = migrated(f"sqlite:///{tmp_path}/other.db")
    with WebProcess(tmp_path, database_url=url, redis_url=redis_url) as web:
        target = f"{web.url}/webhooks/truto"
        settings = {"DATABASE_URL": url, "REDIS_URL": redis_url, "PORT": str(web.port)}
        without_worker = doctor(tmp_path, **settings)
        without_worker_text = run_doctor(tmp_path, **settings).stdout
        other_secret = doctor(tmp_path, "--url", target, **settings | {"TRUTO_WEBHOOK_SECRET": f"w={HIDDEN}"})
        other_store = doctor(tmp_path, "--url", target, **settings | {"DATABASE_URL": other})
        wrong_path = doctor(tmp_path, "--url", f"{web.url}/healthz", **settings)

    assert "The receiver accepted a test event, but no worker delivered it." in without_worker_text
    # Without a worker, the event is stored but not settled.
    assert without_worker.levels("receiver") == {"settled": "warn", "ready": "fail"}
    assert "workers" in without_worker.message("receiver", "ready")
    assert "401" in other_secret.message("receiver", "responds")
    assert "DATABASE_URL" in other_store.message("receiver", "stored")
    assert wrong_path.levels("receiver")["responds"] == "fail"


def test_invalid_settings_and_routes_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text("broken")

    ran = run_doctor(tmp_path, "--json", PORT="high", DATABASE_URL=f"mysql://u:{HIDDEN}@h/d")

    assert (ran.returncode, ran.stdout) == (2, "")
    # A long problem continues on indented lines.
    problems = [line for line in ran.stderr.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in problems] == ["DATABASE_URL", "PORT", "routes.toml"]
    assert HIDDEN not in ran.stderr


@pytest.mark.parametrize("url", ["ftp://h/x", "nonsense", "http://[broken"])
def test_an_invalid_url_is_wrong_usage(tmp_path: Path, url: str) -> None:
    assert run_doctor(tmp_path, "--url", url).returncode == 2


def test_output_on_a_terminal_fits_and_has_colours(tmp_path: Path) -> None:
    terminal, command_side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "app.cli", "doctor", "--no-post"],
        cwd=tmp_path,
        env=make_environment(TRUTO_WEBHOOK_SECRET=SECRET)
        | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "40", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=command_side,
    ):
        os.close(command_side)
        printed = b""
        try:
            while part := os.read(terminal, 65536):
                printed += part
        except OSError:  # the end of a terminal on Linux
            pass
        os.close(terminal)

    assert b"\x1b[31m" in printed
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed.decode())
    assert max(map(len, text.splitlines())) <= 80
    # Without white space, because a long path of the interpreter is wrapped.
    hint = f"-> Run: {sys.executable} -m app.cli migrate"
    assert "".join(hint.split()) in "".join(text.split())
