"""A user of Redis with the least rights: those of docs/databases.md, under real traffic."""

import json
import shlex
from pathlib import Path

import psycopg
import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from tests.integration.test_doctor import doctor
from tests.support.documentation import read_marked_block
from tests.support.postgres import PostgresServer
from tests.support.service import Service, running_whole_service
from tests.support.valkey import ValkeyServer
from tests.support.waiting import wait_until

_FOR_DOCTOR = ("+info", "+config|get")


def make_user(redis: Redis, server: ValkeyServer, *, left_out: tuple[str, ...] = (), added: str = "") -> str:
    """Make the user of the page, without some of its rules; return its URL."""
    words = shlex.split(read_marked_block("docs/databases.md", "redis user"))[1:]
    rules = [word.replace("PASSWORD", "hunter2") for word in words if word not in left_out]
    redis.execute_command(*rules, *added.split())  # type: ignore[no-untyped-call]  # redis-py's
    return server.url.replace("unix://", "unix://rapidbridge:hunter2@")


def read_redis_levels(service: Service) -> dict[str, str]:
    checks = json.loads(service.rapidbridge("doctor", "--json").stdout)["checks"]
    return {check["check"]: check["level"] for check in checks if check["component"] == "redis"}


def test_every_process_works_with_the_rules_of_the_page(
    private_postgres: PostgresServer,
    private_valkey: ValkeyServer,
    private_redis: Redis,
    tmp_path: Path,
) -> None:
    url = make_user(private_redis, private_valkey, left_out=_FOR_DOCTOR)
    with (
        private_postgres.database() as database_url,
        psycopg.connect(private_postgres.url("postgres"), autocommit=True) as postgres,
        running_whole_service(tmp_path, database_url, REDIS_URL=url) as service,
    ):
        sent = service.rapidbridge("simulate", "--records", "80", "--batch-size", "5")
        service.wait_until_settled()
        reduced = read_redis_levels(service)
        commands = [
            service.rapidbridge("replay", "--all", "--yes"),
            service.rapidbridge("migrate", "--adopt-spool", "unnamed"),
        ]
        # Through the spool.
        name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        service.store.engine.dispose()
        spooled = service.rapidbridge("simulate", "--records", "20", "--batch-size", "5", "--seed", "spool")
        postgres.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        spools = [key for key in private_redis.keys("rapidbridge:*:spool") if private_redis.xlen(key)]
        wait_until(lambda: not any(map(private_redis.xlen, spools)), timeout_s=60, what="an empty spool")
        service.wait_until_settled()
        # Every command that the server refused.
        refused = {entry["object"] for entry in private_redis.acl_log()}
        make_user(private_redis, private_valkey)
        # Afterwards: until then, the running processes are refused the same again.
        private_redis.acl_log_reset()
        complete = read_redis_levels(service)

    for result in (sent, spooled, *commands):
        assert result.returncode == 0, result.stdout + result.stderr
    assert spools
    assert (reduced.get("details"), complete.get("details")) == ("warn", None)
    assert complete["eviction"] == "ok"
    assert refused == {"info"}
    assert not private_redis.acl_log()


def test_the_user_of_the_page_reaches_nothing_else(
    private_valkey: ValkeyServer, private_redis: Redis
) -> None:
    private_redis.set("other", "1")
    with Redis.from_url(make_user(private_redis, private_valkey)) as client:
        for command in (
            "FLUSHALL",
            "KEYS *",
            "CONFIG SET save x",
            "GET other",
            "ACL LIST",
            "PUBLISH other x",
        ):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


@pytest.mark.parametrize(
    ("rule", "words", "grant"),
    [
        ("-xlen", "the command xlen (NOPERM)", "+xlen"),
        ("-llen", "the command llen (NOPERM)", "+llen"),
        ("resetkeys ~rq:*", "a key (NOPERM)", "~rapidbridge:* ~rq:*"),
    ],
)
def test_a_missing_right_is_named_with_the_command_that_grants_it(
    private_valkey: ValkeyServer, private_redis: Redis, tmp_path: Path, *, rule: str, words: str, grant: str
) -> None:
    url = make_user(private_redis, private_valkey, added=rule)

    refused = doctor(tmp_path, "--no-post", REDIS_URL=url).message("redis", "reachable")
    command = shlex.split(refused.partition("redis-cli ")[2].replace(" USER ", " rapidbridge ", 1))
    private_redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's
    accepted = doctor(tmp_path, "--no-post", REDIS_URL=url)

    assert f"its user lacks the right to {words}" in refused
    assert command[3:] == grant.split()
    assert "reachable" in accepted.ok_checks("redis")
