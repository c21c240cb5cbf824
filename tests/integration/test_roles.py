"""Roles of PostgreSQL with few rights: one that owns and migrates the tables, another for the processes."""

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import psycopg
import pytest

from app.database.engine import Database, open_database
from tests.integration.test_doctor import doctor
from tests.support.commands import run_command
from tests.support.documentation import read_marked_block
from tests.support.postgres import PostgresServer
from tests.support.service import running_whole_service
from tests.support.web_process import make_environment

PAGE = "docs/databases.md"
ROLES = ("rapidbridge_owner", "rapidbridge_app", "rapidbridge", "admin")
SCHEMA = "rapidbridge"


def execute(url: str, *statements: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def log_in(url: str, role: str) -> str:
    return url.replace("postgres@", f"{role}@")


def find_statements(message: str, start: str) -> str:
    """Return the statements that follow some words of a message, which may be wrapped."""
    return " ".join(message.split()).partition(start)[2]


@pytest.fixture
def url(private_postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database for a superuser; it belongs to `admin`, who may create roles."""
    with private_postgres.database() as superuser_url:
        name = psycopg.conninfo.conninfo_to_dict(superuser_url)["dbname"]
        execute(superuser_url, "CREATE ROLE admin LOGIN CREATEROLE", f"ALTER DATABASE {name} OWNER TO admin")
        yield superuser_url
    remaining = "SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)"
    with psycopg.connect(private_postgres.url("postgres"), autocommit=True) as connection:
        for (role,) in connection.execute(remaining, [list(ROLES)]).fetchall():
            connection.execute(f'DROP ROLE "{role}"')


@pytest.fixture
def two_roles(url: str) -> dict[str, str]:
    """The settings of the page, after its statements were run by an administrator without superuser rights."""
    execute(log_in(url, "admin"), read_marked_block(PAGE, "two roles"))
    return {
        "DATABASE_URL": log_in(url, "rapidbridge_app"),
        "MIGRATION_DATABASE_URL": log_in(url, "rapidbridge_owner"),
        "DATABASE_SCHEMA": SCHEMA,
    }


def run(folder: Path, *words: str, **settings: str) -> CompletedProcess[str]:
    return run_command(*words, cwd=folder, environment=make_environment(**settings))


def open_as(url: str, role: str, schema: str = SCHEMA) -> Database:
    return open_database(log_in(url, role), schema=schema)


def test_the_processes_work_with_the_rights_of_the_page(
    url: str, two_roles: dict[str, str], tmp_path: Path
) -> None:
    migrated = run(tmp_path, "migrate", **two_roles)
    again = run(tmp_path, "migrate", **two_roles)
    settings = {name: value for name, value in two_roles.items() if name != "DATABASE_URL"}
    routes = read_marked_block(PAGE, "two roles: routes")
    with running_whole_service(tmp_path, two_roles["DATABASE_URL"], routes, **settings) as service:
        sent = service.rapidbridge("simulate", "--records", "60", "--batch-size", "20")
        service.wait_until_settled()
        results = json.loads(service.rapidbridge("doctor", "--json").stdout)["checks"]
        # Commands that write.
        listed = json.loads(service.rapidbridge("deliveries", "list", "--json").stdout)["deliveries"]
        delivery = next(delivery for delivery in listed if delivery["integrated_account_id"])
        commands = [
            service.rapidbridge("replay", "--id", delivery["id"], "--yes"),
            service.rapidbridge("sinks", "pause", "main"),
            service.rapidbridge("sinks", "resume", "main"),
            service.rapidbridge("prune", "--older-than", "1m", "--yes"),
            service.rapidbridge("erase", "--account", delivery["integrated_account_id"], "--yes"),
            service.rapidbridge("runs", "list"),
        ]

    assert migrated.returncode == again.returncode == 0, migrated.stderr + again.stderr
    assert sent.returncode == 0, sent.stdout + sent.stderr
    for command in commands:
        assert command.returncode == 0, command.stdout + command.stderr
    store = {result["check"]: result for result in results if result["component"] == "store"}
    assert store["rights"]["level"] == store["migration"]["level"] == store["tables"]["level"] == "ok"
    owners = execute(url, "SELECT DISTINCT schemaname, tableowner FROM pg_tables WHERE tableowner ~ '^rapid'")
    assert set(owners) == {("rapidbridge", "rapidbridge_owner"), ("truto", "rapidbridge_app")}


def test_the_role_of_the_processes_cannot_change_the_tables(
    url: str, two_roles: dict[str, str], tmp_path: Path
) -> None:
    assert run(tmp_path, "migrate", **two_roles).returncode == 0
    app = two_roles["DATABASE_URL"]

    for statement in (
        f"DROP TABLE {SCHEMA}.rapidbridge_deliveries",
        f"ALTER TABLE {SCHEMA}.rapidbridge_deliveries ADD COLUMN added int",
        f"TRUNCATE {SCHEMA}.rapidbridge_deliveries",
        f"CREATE TABLE {SCHEMA}.added (id int)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute(app, statement)


@pytest.mark.parametrize(
    ("revoked", "level"),
    [
        (f"REVOKE ALL ON SCHEMA {SCHEMA} FROM rapidbridge_app", "fail"),
        (
            f"REVOKE DELETE ON {SCHEMA}.rapidbridge_runs, {SCHEMA}.rapidbridge_syncs FROM rapidbridge_app",
            "fail",
        ),
        (f"REVOKE ALL ON ALL TABLES IN SCHEMA {SCHEMA} FROM rapidbridge_app", "fail"),
        (
            f"ALTER DEFAULT PRIVILEGES FOR ROLE rapidbridge_owner IN SCHEMA {SCHEMA} "
            "REVOKE ALL ON TABLES FROM rapidbridge_app",
            "warn",
        ),
    ],
)
def test_a_missing_right_is_named_with_its_statement(
    url: str, two_roles: dict[str, str], tmp_path: Path, revoked: str, level: str
) -> None:
    run(tmp_path, "migrate", **two_roles)
    execute(two_roles["MIGRATION_DATABASE_URL"], revoked)

    refused = run(tmp_path, "migrate", **two_roles)
    output = doctor(tmp_path, "--no-post", **two_roles)
    statements = find_statements(refused.stderr, "Run as their owner: ")
    execute(two_roles["MIGRATION_DATABASE_URL"], statements)
    accepted = run(tmp_path, "migrate", **two_roles)

    assert refused.returncode == 2
    assert output.levels("store")["rights"] == level
    assert statements == find_statements(output.message("store", "rights"), "owner of the tables: ")
    assert accepted.returncode == 0, accepted.stderr


def test_two_databases_or_schemas_are_refused(
    url: str, two_roles: dict[str, str], private_postgres: PostgresServer, tmp_path: Path
) -> None:
    with private_postgres.database() as other_url:
        elsewhere = two_roles | {"DATABASE_URL": log_in(other_url, "rapidbridge_app")}
        refused = run(tmp_path, "migrate", **elsewhere)
        output = doctor(tmp_path, "--no-post", **elsewhere)
    execute(url, "CREATE SCHEMA rapidbridge_app AUTHORIZATION rapidbridge_app")
    execute(url, "GRANT CREATE ON SCHEMA public TO rapidbridge_owner")
    without_schema = {name: value for name, value in two_roles.items() if name != "DATABASE_SCHEMA"}
    other_schema = run(tmp_path, "migrate", **without_schema)

    assert refused.returncode == other_schema.returncode == 2
    assert "leads to another database than DATABASE_URL" in " ".join(refused.stderr.split())
    assert "leads to another database than DATABASE_URL" in output.message("store", "migration")
    assert "Set DATABASE_SCHEMA to one of them" in " ".join(other_schema.stderr.split())
    assert not execute(url, "SELECT FROM pg_tables WHERE tablename ~ '^rapidbridge_'")


def test_an_owner_that_cannot_connect_is_named_with_its_setting(
    url: str, two_roles: dict[str, str], tmp_path: Path
) -> None:
    owner_url = two_roles["MIGRATION_DATABASE_URL"].replace("owner@", "owner:hunter2@")
    settings = two_roles | {"MIGRATION_DATABASE_URL": owner_url}
    execute(url, "ALTER ROLE rapidbridge_owner NOLOGIN")

    refused = run(tmp_path, "migrate", **settings)
    output = doctor(tmp_path, "--no-post", **settings)
    bundle = run(tmp_path, "support-bundle", "--output", "-", **settings)

    assert refused.returncode == 3
    assert "the database in MIGRATION_DATABASE_URL failed: the role may not log in" in " ".join(
        refused.stderr.split()
    )
    assert output.message("store", "migration").startswith("MIGRATION_DATABASE_URL: the role may not log in")
    assert "MIGRATION_DATABASE_URL=set" in bundle.stdout
    assert "hunter2" not in refused.stderr + output.text + bundle.stdout


def test_tables_of_one_role_move_to_an_owner(url: str, two_roles: dict[str, str], tmp_path: Path) -> None:
    execute(url, f"ALTER SCHEMA {SCHEMA} OWNER TO rapidbridge_app")
    one_role = {name: value for name, value in two_roles.items() if name != "MIGRATION_DATABASE_URL"}
    assert run(tmp_path, "migrate", **one_role).returncode == 0
    execute(url, f"ALTER SCHEMA {SCHEMA} OWNER TO rapidbridge_owner")
    execute(url, f"GRANT SELECT, UPDATE ON {SCHEMA}.rapidbridge_schema_version TO rapidbridge_owner")
    # As before an upgrade.
    execute(url, f"UPDATE {SCHEMA}.rapidbridge_schema_version SET version_num = '0023'")
    execute(url, f"DROP TABLE {SCHEMA}.rapidbridge_encryption_keys")

    refused = run(tmp_path, "migrate", **two_roles)
    execute(url, find_statements(refused.stderr, "run as a superuser: "))
    granting = run(tmp_path, "migrate", **two_roles)
    execute(url, find_statements(granting.stderr, "Run as their owner: "))
    moved = run(tmp_path, "migrate", **two_roles)

    assert refused.returncode == 3
    assert "only their owner can change them; set MIGRATION_DATABASE_URL" in " ".join(refused.stderr.split())
    assert moved.returncode == 0, moved.stderr


def test_a_sink_without_a_schema_of_its_own_is_named_with_the_statement(
    url: str, two_roles: dict[str, str], tmp_path: Path
) -> None:
    assert run(tmp_path, "migrate", **two_roles).returncode == 0

    # Without a routes file, the sink is in the schema of the store.
    refused = doctor(tmp_path, "--no-post", **two_roles).message("sink main", "writable")
    execute(url, find_statements(refused, "run as the owner: ").partition(";")[0])
    accepted = doctor(tmp_path, "--no-post", **two_roles)

    assert f"may not create tables in {SCHEMA}" in refused
    assert "writable" in accepted.ok_checks("sink main")


@pytest.mark.parametrize(
    ("mark", "schema", "words"),
    [
        ("one role", "", "GRANT USAGE, CREATE ON SCHEMA public TO rapidbridge;"),
        ("own schema", SCHEMA, 'CREATE SCHEMA "rapidbridge" AUTHORIZATION rapidbridge;'),
    ],
)
def test_a_role_without_create_on_public_gets_the_statement_of_the_page(
    url: str, tmp_path: Path, mark: str, schema: str, words: str
) -> None:
    execute(url, "CREATE ROLE rapidbridge LOGIN")
    settings = {"DATABASE_URL": log_in(url, "rapidbridge")} | ({"DATABASE_SCHEMA": schema} if schema else {})

    refused = run(tmp_path, "migrate", **settings)
    sink = doctor(tmp_path, "--no-post", **settings).message("sink main", "writable")
    execute(url, read_marked_block(PAGE, mark))
    accepted = run(tmp_path, "migrate", **settings)
    output = doctor(tmp_path, "--no-post", **settings)

    assert refused.returncode == 3
    assert words in " ".join(refused.stderr.split())
    assert words.rstrip(";") in sink
    assert accepted.returncode == 0, accepted.stderr
    assert "writable" in output.ok_checks("sink main")
    assert "tables" in output.ok_checks("store")


def test_a_role_that_may_not_use_any_schema_is_named_with_the_statement(url: str, tmp_path: Path) -> None:
    execute(url, "CREATE ROLE rapidbridge LOGIN", "REVOKE ALL ON SCHEMA public FROM PUBLIC")
    settings = {"DATABASE_URL": log_in(url, "rapidbridge")}

    refused = run(tmp_path, "migrate", **settings)
    execute(url, find_statements(refused.stderr, "run as a superuser: "))
    accepted = run(tmp_path, "migrate", **settings)

    assert refused.returncode == 3
    assert accepted.returncode == 0, accepted.stderr
