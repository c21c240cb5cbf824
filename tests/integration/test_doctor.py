"""`rapidbridge doctor` against real servers, in good and in bad states."""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from app.cli.local.ports import find_free_port
from app.database.engine import open_database
from app.redis.spool import KEY, UNREADABLE_KEY
from app.store.migrate import migrate
from tests.integration.test_simulated_api import TOKEN, finished_runs
from tests.support.fake_receiver import running_receiver
from tests.support.postgres import PostgresServer
from tests.support.processes import ROOT
from tests.support.service import running_whole_service
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until
from tests.support.web_process import SECRET, WebProcess, make_environment

HIDDEN = "hunter2-never-shown"


@dataclass(frozen=True, slots=True)
class DoctorOutput:
    """What the doctor said."""

    code: int
    results: list[dict[str, str]]
    output: str

    def levels(self, component: str) -> dict[str, str]:
        """What is not green in a room, by its check."""
        return {
            result["check"]: result["level"]
            for result in self.results
            if result["component"] == component and result["level"] != "green"
        }

    def message(self, component: str, check: str) -> str:
        [result] = [
            f
            for f in self.results
            if (f["component"], f["check"]) == (component, check) and f["level"] != "green"
        ]
        return result["message"] + " -> " + result["advice"]

    def ok_checks(self, component: str) -> set[str]:
        return {f["check"] for f in self.results if f["component"] == component and f["level"] == "green"}


def run_doctor(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    variables = {"TRUTO_WEBHOOK_SECRET": SECRET, **settings}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", "doctor", *words],
        cwd=folder,
        env=make_environment(**{name: value for name, value in variables.items() if value})
        | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def list_documented_checks() -> set[tuple[str, str]]:
    page = (ROOT / "docs/operations.md").read_text()
    part = page.partition("## Is everything set up?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ((?:`\w+`,? ?)+)", part, re.MULTILINE)
    return {(room, check) for room, checks in rows for check in re.findall(r"`(\w+)`", checks)}


def doctor(folder: Path, *words: str, **settings: str) -> DoctorOutput:
    """Run it with --json, and check what holds for whatever it finds."""
    ran = run_doctor(folder, "--json", *words, **settings)
    assert ran.stderr == ""
    output: dict[str, Any] = json.loads(ran.stdout)
    results = output["findings"]
    levels = {finding["level"] for finding in results}
    assert ran.returncode == (1 if "red" in levels else 0)
    assert output["ok"] == (ran.returncode == 0)
    assert levels <= {"green", "yellow", "red"}
    assert all(bool(finding["advice"]) == (finding["level"] != "green") for finding in results)
    known = list_documented_checks()
    assert all({(f["component"].split()[0], f["check"]), ("any", f["check"])} & known for f in results)
    return DoctorOutput(ran.returncode, results, ran.stdout)


def migrated(url: str) -> str:
    store = open_database(url)
    migrate(store)
    store.close()
    return url


@pytest.fixture
def sound_valkey() -> Iterator[ValkeyServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = ValkeyServer(Path(folder), "--appendonly", "yes")
        yield server
        server.stop()


@pytest.fixture
def sound_postgres() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = PostgresServer(Path(folder), is_durable=True)
        yield server
        server.stop()


def test_everything_is_green_where_everything_is_set_up(
    sound_postgres: PostgresServer, sound_valkey: ValkeyServer, tmp_path: Path
) -> None:
    with sound_postgres.database() as url, running_receiver() as to, finished_runs(to, records=1) as play:
        made = play.api.create_webhook("https://sync.example.com/webhooks/truto", ["sync_job_run:*"])
        settings = {"REDIS_URL": sound_valkey.url, "TRUTO_WEBHOOK_SECRET": f"{made.id}={made.secret}"}
        with running_whole_service(tmp_path, url, **settings) as service:
            wait_until(lambda: bool(Redis.from_url(sound_valkey.url).scard("rq:workers")), what="a worker")
            told = doctor(tmp_path, **service.settings, TRUTO_API_URL=play.url, TRUTO_API_TOKEN=TOKEN)

    # A machine that is busy with tests may take its time.
    assert {f["check"] for f in told.results if f["level"] != "green"} <= {"latency"}, told.output
    assert told.code == 0
    assert told.ok_checks("receiver") == {"answers", "settled", "ready"}
    assert told.ok_checks("truto") == {"token", "webhook"}
    assert told.ok_checks("store") >= {"reachable", "durability", "clock", "connections", "tables", "backlog"}
    assert told.ok_checks("redis") >= {"reachable", "eviction", "memory", "persistence", "spool"}
    assert told.ok_checks("workers") == {"alive", "jobs"}
    assert told.ok_checks("sink main") == {"writable"}
    assert made.secret not in told.output


def test_before_anything_is_set_up_it_says_what_to_do_and_changes_nothing(tmp_path: Path) -> None:
    told = doctor(tmp_path, TRUTO_WEBHOOK_SECRET="")

    assert told.code == 1
    assert told.levels("settings") == {"secret": "red"}
    assert "rapidbridge migrate" in told.message("store", "reachable")
    assert told.levels("redis") == {"reachable": "yellow"}
    assert told.levels("sink main") == {}
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_its_tables_is_told(store_url: str, redis_url: str, tmp_path: Path) -> None:
    empty = open_database(store_url)
    empty.engine.connect().close()
    empty.close()

    told = doctor(tmp_path, "--no-post", DATABASE_URL=store_url, REDIS_URL=redis_url)

    assert "rapidbridge migrate" in told.message("store", "tables")
    assert "reachable" in told.ok_checks("store")


def test_a_postgresql_that_does_not_sync_is_told(postgres_url: str, tmp_path: Path) -> None:
    told = doctor(tmp_path, "--no-post", DATABASE_URL=migrated(postgres_url))

    assert told.levels("store") == {"durability": "red"}
    assert "fsync" in told.message("store", "durability")


def test_a_role_that_may_do_little_is_told(postgres: PostgresServer, tmp_path: Path) -> None:
    with postgres.database() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS guest")
            connection.execute("CREATE ROLE guest LOGIN CONNECTION LIMIT 5")
        told = doctor(tmp_path, "--no-post", DATABASE_URL=url.replace("postgres@", "guest@"))
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

    assert "may not create tables in public" in told.message("sink main", "writable")
    assert "has 5 connections" in told.message("store", "connections")
    assert "may not write to tables" in closed.message("sink main", "writable")
    assert opened.levels("sink main") == {}


def test_a_read_only_database_is_told(postgres_url: str, tmp_path: Path) -> None:
    migrated(postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())

    told = doctor(tmp_path, "--no-post", DATABASE_URL=postgres_url)

    assert told.levels("store").get("writable") == "red"
    assert "read-only" in told.message("sink main", "writable")


@pytest.mark.parametrize("words", [("--json",), ()])
def test_a_wrong_password_is_blamed_and_not_shown(
    harmed_postgres: PostgresServer,
    harmed_valkey: ValkeyServer,
    harmed_redis: Redis,
    tmp_path: Path,
    words: tuple[str, ...],
) -> None:
    rules = harmed_postgres._data_folder / "pg_hba.conf"
    kept = rules.read_text()
    harmed_redis.config_set("requirepass", "another")
    with harmed_postgres.database() as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE ROLE locked LOGIN PASSWORD 'another'")
        rules.write_text(f"local all locked scram-sha-256\n{kept}")
        connection.execute("SELECT pg_reload_conf()")
        ran = run_doctor(
            tmp_path,
            *words,
            DATABASE_URL=url.replace("postgres@", f"locked:{HIDDEN}@"),
            REDIS_URL=harmed_valkey.url.replace("unix://", f"unix://:{HIDDEN}@"),
        )
        rules.write_text(kept)
        connection.execute("SELECT pg_reload_conf()")
        connection.execute("DROP ROLE locked")

    assert ran.returncode == 1
    assert HIDDEN not in ran.stdout + ran.stderr
    assert "wrong password" in " ".join(ran.stdout.split())
    assert "Auth" in ran.stdout


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
def test_no_secret_is_ever_shown(tmp_path: Path, settings: dict[str, str]) -> None:
    if "SINK_URL" in settings:
        (tmp_path / "routes.toml").write_text('[sinks.a]\ntype = "sql"\nurl = "$SINK_URL"\n')

    ran = run_doctor(
        tmp_path, "--url", f"http://u:{HIDDEN}@127.0.0.1:1/webhooks/truto?k={HIDDEN}", **settings
    )

    assert ran.returncode in (1, 2)
    # Also where a line was broken within it.
    assert HIDDEN not in "".join((ran.stdout + ran.stderr).split())
    assert "Traceback" not in ran.stderr
    assert "fault of the doctor" not in " ".join(ran.stdout.split())


def test_a_redis_that_evicts_is_told(
    harmed_valkey: ValkeyServer, harmed_redis: Redis, tmp_path: Path
) -> None:
    harmed_redis.config_set("maxmemory-policy", "allkeys-lru")
    harmed_redis.config_set("maxmemory", int(harmed_redis.info("memory")["used_memory"]) + 1000)
    harmed_redis.config_set("save", "3600 1")
    harmed_redis.config_set("maxmemory-policy", "allkeys-lru")

    told = doctor(tmp_path, "--no-post", REDIS_URL=harmed_valkey.url)

    assert told.levels("redis") == {"eviction": "red", "memory": "red", "persistence": "yellow"}
    assert "noeviction" in told.message("redis", "eviction")
    assert "snapshots" in told.message("redis", "persistence")


def test_without_workers_and_with_a_full_spool_it_says_so(
    redis: Redis, redis_url: str, tmp_path: Path
) -> None:
    redis.xadd(KEY, {"header": "x", "body": "y"})
    redis.xadd(UNREADABLE_KEY, {"header": "x"})

    told = doctor(tmp_path, "--no-post", REDIS_URL=redis_url)

    assert told.levels("workers") == {"alive": "red"}
    assert "rapidbridge worker" in told.message("workers", "alive")
    assert told.levels("redis") == {"persistence": "yellow", "spool": "yellow", "unreadable": "yellow"}


def test_servers_that_stand_still_are_given_up_soon(
    harmed_valkey: ValkeyServer, harmed_postgres: PostgresServer, tmp_path: Path
) -> None:
    started = time.monotonic()
    with harmed_postgres.database() as url, harmed_valkey.stalled(), harmed_postgres.stalled():
        told = doctor(tmp_path, "--no-post", DATABASE_URL=url, REDIS_URL=harmed_valkey.url)

    assert time.monotonic() - started < 25
    assert "red" in told.levels("store").values()
    assert "red" in told.levels("sink main").values()
    assert told.levels("redis") == {"reachable": "red"}
    assert told.levels("settings") == {}


def test_sinks_that_cannot_be_written_are_told_apart(tmp_path: Path) -> None:
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

    told = doctor(tmp_path, "--no-post")

    assert told.levels("sink good") == {}
    assert told.levels("sink blocked") == {"writable": "red"}
    assert told.levels("sink closed") == {"writable": "red"}
    assert "no SQLite database" in told.message("sink broken", "writable")
    assert not (tmp_path / "not").exists()


def test_a_webhook_that_is_off_is_told(tmp_path: Path) -> None:
    with running_receiver() as to, finished_runs(to, records=1) as play:
        play.request("PATCH", f"/webhook/{play.webhook_id}", json={"is_active": False})
        told = doctor(
            tmp_path,
            "--no-post",
            TRUTO_API_URL=play.url,
            TRUTO_API_TOKEN=TOKEN,
            TRUTO_WEBHOOK_SECRET=f"{play.webhook_id}={SECRET}",
        )

    assert told.levels("truto") == {"webhook": "red", "target": "red"}
    assert f"rapidbridge webhook reactivate {play.webhook_id}" in told.message("truto", "webhook")
    assert "HTTPS" in told.message("truto", "target")
    assert told.ok_checks("truto") == {"token"}


def test_a_token_and_a_webhook_that_truto_does_not_know_are_told(tmp_path: Path) -> None:
    with running_receiver() as to, finished_runs(to, records=1) as play:
        wrong = doctor(tmp_path, "--no-post", TRUTO_API_URL=play.url, TRUTO_API_TOKEN=HIDDEN)
        settings = {"TRUTO_API_URL": play.url, "TRUTO_API_TOKEN": TOKEN}
        unknown = doctor(tmp_path, "--no-post", TRUTO_WEBHOOK_SECRET=f"nobody={SECRET}", **settings)
        nameless = doctor(tmp_path, "--no-post", **settings)
    away = doctor(
        tmp_path, "--no-post", TRUTO_API_URL=f"http://127.0.0.1:{find_free_port()}", TRUTO_API_TOKEN=TOKEN
    )

    assert "401" in wrong.message("truto", "token")
    assert HIDDEN not in wrong.output
    assert "404" in unknown.message("truto", "webhook")
    assert nameless.levels("truto") == {"webhook": "yellow"}
    assert away.levels("truto") == {"reachable": "yellow"}


def test_where_nobody_listens_it_says_how_to_start(tmp_path: Path) -> None:
    told = doctor(tmp_path, PORT=str(find_free_port()))

    assert told.levels("receiver") == {"answers": "yellow"}
    assert "rapidbridge up" in told.message("receiver", "answers")


def test_a_receiver_with_another_secret_or_store_is_told(
    redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    url = migrated(f"sqlite:///{tmp_path}/store.db")
    other = migrated(f"sqlite:///{tmp_path}/other.db")
    with WebProcess(tmp_path, database_url=url, redis_url=redis_url) as web:
        target = f"{web.url}/webhooks/truto"
        settings = {"DATABASE_URL": url, "REDIS_URL": redis_url, "PORT": str(web.port)}
        unworked = doctor(tmp_path, **settings)
        stranger = doctor(tmp_path, "--url", target, **settings | {"TRUTO_WEBHOOK_SECRET": f"w={HIDDEN}"})
        elsewhere = doctor(tmp_path, "--url", target, **settings | {"DATABASE_URL": other})
        astray = doctor(tmp_path, "--url", f"{web.url}/healthz", **settings)

    # Nobody works: stored, but not settled.
    assert unworked.levels("receiver") == {"settled": "yellow", "ready": "red"}
    assert "workers" in unworked.message("receiver", "ready")
    assert "401" in stranger.message("receiver", "answers")
    assert "DATABASE_URL" in elsewhere.message("receiver", "stored")
    assert astray.levels("receiver")["answers"] == "red"


def test_a_broken_set_up_is_refused_with_all_complaints(tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text("broken")

    ran = run_doctor(tmp_path, "--json", PORT="high", DATABASE_URL=f"mysql://u:{HIDDEN}@h/d")

    assert (ran.returncode, ran.stdout) == (2, "")
    assert [line.partition(":")[0] for line in ran.stderr.splitlines()] == [
        "DATABASE_URL",
        "PORT",
        "routes.toml",
    ]
    assert HIDDEN not in ran.stderr


@pytest.mark.parametrize("url", ["ftp://h/x", "nonsense", "http://[broken"])
def test_an_address_that_is_none_is_wrong_usage(tmp_path: Path, url: str) -> None:
    assert run_doctor(tmp_path, "--url", url).returncode == 2


def test_on_a_terminal_it_fits_and_has_colours(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "app.cli", "doctor", "--no-post"],
        cwd=tmp_path,
        env=make_environment(TRUTO_WEBHOOK_SECRET=SECRET)
        | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "LINES": "40", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
    ):
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:  # how a terminal ends
            pass
        os.close(ours)

    assert b"\x1b[31m" in said
    text = re.sub(r"\x1b\[[0-9;]*m", "", said.decode())
    assert max(map(len, text.splitlines())) <= 80
    assert "-> Run: rapidbridge migrate" in text
