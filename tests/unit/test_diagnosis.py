"""Diagnosis of databases' errors: by code, and by text only for failed connection attempts."""

import psycopg
import pytest

from app.database.diagnosis import diagnose, is_stale_session

FATAL = 'connection failed: connection to server at "10.0.0.1", port 5432 failed: FATAL:  '


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (FATAL + 'password authentication failed for user "database"', "wrong password, or no such role"),
        (FATAL + 'role "password" does not exist', "no such role"),
        (FATAL + 'role "x" is not permitted to log in', "the role may not log in"),
        (FATAL + 'too many connections for role "x"', "no connection is free"),
        (FATAL + 'too many connections for database "x"', "no connection is free"),
        (FATAL + "sorry, too many clients already", "no connection is free"),
        (FATAL + "remaining connection slots are reserved for roles", "no connection is free"),
        (FATAL + "no more connections allowed (max_client_conn)", "no connection is free"),
        (FATAL + 'database "role " does not exist', "no such database"),
        (
            FATAL + 'database "x" is not currently accepting connections',
            "the database accepts no connections",
        ),
        (
            FATAL + 'permission denied for database "x"\nDETAIL:  User does not have CONNECT privilege.',
            "the role may not connect to the database",
        ),
        (FATAL + "the database system is shutting down", "the server is starting up or shutting down"),
        (FATAL + "the database system is starting up", "the server is starting up or shutting down"),
        (FATAL + "the database system is in recovery mode", "the server is starting up or shutting down"),
        (
            FATAL + 'no pg_hba.conf entry for host "1.2.3.4", user "u", database "d", no encryption',
            "the server requires TLS, or pg_hba.conf does not admit this machine",
        ),
        (
            FATAL + 'no pg_hba.conf entry for host "1.2.3.4", user "u", database "d", SSL encryption',
            "pg_hba.conf does not admit this machine, role or database",
        ),
        (
            FATAL + "unsupported startup parameter: options",
            "the connection pooler refuses a parameter that a session starts with",
        ),
        (
            FATAL + "unsupported startup parameter in options: geqo",
            "the connection pooler refuses a parameter that a session starts with",
        ),
        (
            'connection to server at "h" failed: server does not support SSL, but SSL was required',
            "the URL requires TLS, and the server does not support it",
        ),
        (
            'connection to server at "h" failed: SSL error: certificate verify failed',
            "the server's TLS certificate cannot be verified",
        ),
        (
            'root certificate file "/root/.postgresql/root.crt" does not exist',
            "the file with the authority of the server's TLS certificate is missing, or contains none",
        ),
        (
            'server certificate for "a" does not match host name "b"',
            "the server's TLS certificate is for another host",
        ),
        ("failed to resolve host 'x': [Errno -2] Name or service not known", "no such host"),
        ('connection to server at "h", port 1 failed: Connection refused', "no server listens there"),
        ("connection timeout expired", "no answer in time"),
        ("server closed the connection unexpectedly", "the connection broke"),
        ("FATAL:  Das ist eine Meldung, die niemand kennt", "the connection failed"),
    ],
)
def test_a_failed_connection_is_diagnosed_by_its_text(message: str, problem: str) -> None:
    diagnosis = diagnose(psycopg.OperationalError(message), role="u", database="d")

    assert diagnosis.problem == problem
    assert diagnosis.advice


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (psycopg.errors.InsufficientPrivilege, "the role lacks a right"),
        (
            psycopg.errors.ReadOnlySqlTransaction,
            "the server accepts no writes: it is read-only, or a standby",
        ),
        (psycopg.errors.UndefinedTable, "tables are missing or outdated"),
        (psycopg.errors.TooManyConnections, "no connection is free"),
        (psycopg.errors.AdminShutdown, "the server is shutting down or restarting"),
        (psycopg.errors.DiskFull, "the server's disk is full"),
        (psycopg.errors.DuplicatePreparedStatement, "a connection pooler mixes up prepared statements"),
        (psycopg.errors.UntranslatableCharacter, "the database cannot store a character"),
        (psycopg.errors.FdwError, "the server reports FdwError"),
    ],
)
def test_a_code_decides_in_every_language(error: type[psycopg.Error], problem: str) -> None:
    diagnosis = diagnose(error("der Datenbankserver sagt: password refused, role missing"))

    assert diagnosis.problem.startswith(problem)
    assert diagnosis.code == error.sqlstate


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("query_wait_timeout", "no connection is free"),
        (
            "transaction blocks not allowed in statement pooling mode",
            "the connection pooler pools statements",
        ),
        ("pgbouncer cannot connect to server", "the connection pooler cannot reach its server"),
        ("prepared statement did not exist", "a connection pooler mixes up prepared statements"),
    ],
)
def test_the_one_code_of_pgbouncer_has_several_causes(message: str, problem: str) -> None:
    assert diagnose(psycopg.errors.ProtocolViolation(message)).problem.startswith(problem)


def test_commands_name_the_role_and_the_schema() -> None:
    diagnosis = diagnose(psycopg.errors.InsufficientPrivilege(), role="crm-app", schema="tenant_a")

    assert diagnosis.advice == (
        'run as the owner: GRANT USAGE, CREATE ON SCHEMA tenant_a TO "crm-app"; '
        'GRANT ALL ON ALL TABLES IN SCHEMA tenant_a TO "crm-app";'
    )


@pytest.mark.parametrize("state", ["25006", "26000", "42P05", "08P01", "57P01"])
def test_sessions_that_cannot_recover_are_replaced(state: str) -> None:
    assert is_stale_session(psycopg.errors.lookup(state)())


@pytest.mark.parametrize("state", ["23505", "42P01", "40001", "57014", "53100"])
def test_sessions_that_work_stay(state: str) -> None:
    assert not is_stale_session(psycopg.errors.lookup(state)())
