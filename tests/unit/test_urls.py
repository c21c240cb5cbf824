"""Parameters of DATABASE_URL, REDIS_URL and a sink's `url`: known ones pass, others are refused by name."""

import string
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.pq import Conninfo
from redis import ConnectionPool
from sqlalchemy import event

from app.config.database_url import LIBPQ_PARAMETERS
from app.config.redis_url import REDIS_PARAMETERS
from app.config.routes_file import read_routes
from app.config.settings import read_settings
from app.database.engine import open_engine
from app.errors import ConfigError

HIDDEN = "hunter2"


def find_problem(**variables: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_settings(variables)
    [problem] = caught.value.problems
    assert HIDDEN not in problem
    return problem


def find_sink_problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_routes(f'[sinks.main]\ntype = "sql"\n{text}', source="routes.toml", variables={})
    [problem] = caught.value.problems
    return problem


def test_every_parameter_of_libpq_is_known() -> None:
    assert set(LIBPQ_PARAMETERS) >= {option.keyword.decode() for option in Conninfo.get_defaults()}


@pytest.mark.parametrize("name", REDIS_PARAMETERS)
def test_every_known_parameter_of_redis_is_accepted_by_the_client(name: str) -> None:
    value = "3" if REDIS_PARAMETERS[name] is not str else "none"
    url = f"rediss://h/0?{name}={value}"
    pool = ConnectionPool.from_url(url)

    pool.connection_class(**pool.connection_kwargs)
    assert read_settings({"REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize(
    ("parameter", "name", "hint"),
    [
        ("pgbouncer=true", "pgbouncer", "pooler such as PgBouncer is recognized"),
        ("schema=tenant", "schema", "set DATABASE_SCHEMA"),
        ("currentSchema=tenant", "currentSchema", "set DATABASE_SCHEMA"),
        ("connection_limit=5", "connection_limit", "its own pool"),
        ("pool_timeout=5", "pool_timeout", "its own pool"),
        ("sslaccept=strict", "sslaccept", "sslmode=require"),
        ("sslmod=require", "sslmod", "use sslmode"),
        ("statement_timeout=5", "statement_timeout", "options=-c%20"),
        (f"{HIDDEN}=1&x=2", "", "use one that libpq knows"),
    ],
)
def test_an_unknown_parameter_of_a_database_is_refused_by_name(parameter: str, name: str, hint: str) -> None:
    url = f"postgres://u:p%3F{HIDDEN}@h/d?{parameter.replace(HIDDEN, 'x')}"

    for problem in (find_problem(DATABASE_URL=url), find_sink_problem(f'url = "{url}"')):
        assert f"unknown parameter {name}" in problem
        assert hint in problem


@pytest.mark.parametrize(
    "url",
    [
        "postgres://u@h/d?sslmode=verify-full&sslrootcert=/ca.pem&channel_binding=require&connect_timeout=1",
        "postgres://u@h/d?options=-csearch_path%3Dtenant&application_name=crm&client_encoding=utf8",
        "postgres://u:a?b=c@h/d",
        "postgres://h1:1,h2:2/d?target_session_attrs=read-write",
        "postgres://u@/d?host=h1&host=h2&port=1",
        "postgres://u:p@h/d?application_name=team@example.com&sslmode=require",
        "postgres:///d?host=/run/pg&user=team@example.com",
        "sqlite:///x.db?timeout=1",
    ],
)
def test_known_parameters_of_a_database_are_accepted(url: str) -> None:
    assert read_settings({"DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///x.db?mode=ro", "unknown parameter mode"),
        ("postgres://h/d?connect_timeout=1&connect_timeout=2", "connect_timeout 2 times"),
        ("postgres://h/d?client_encoding=latin1", "client_encoding"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///:memory:?timeout=1", "names no file"),
        ("sqlite://x.db", "malformed; write sqlite:///FILE"),
        (f"postgres://u:{HIDDEN}@h:port/d", "malformed host or port"),
        (f"postgres://u:{HIDDEN}@h:99999/d", "malformed host or port"),
        (f"postgres://u:{HIDDEN}@h1:1,h2:0/d", "malformed host or port"),
        (f"postgres://u:p@{HIDDEN}@h/d", "malformed; percent-encode"),
        (f"postgres://u:p@x/{HIDDEN}@h/d", "malformed; percent-encode"),
        (f"postgres://u:p@x?{HIDDEN}=@h/d", "malformed; percent-encode"),
        (f"mysql://u:{HIDDEN}@h/d", "mysql://… starts with neither"),
    ],
)
def test_a_parameter_without_effect_or_with_two_is_refused(url: str, words: str) -> None:
    assert words in find_problem(DATABASE_URL=url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+cluster://h", "Redis Cluster, which is not supported"),
        ("rediss+sentinel://h", "Redis Sentinel, which is not supported"),
        ("redis-sentinel://h", "Redis Sentinel, which is not supported"),
        (f"redis://:{HIDDEN}@h1:1,h2:2/0", "several servers, which is not supported"),
        (f"redis://:{HIDDEN}@h?sockettimeout=1", "unknown parameter sockettimeout; use socket_timeout"),
        (f"redis://:{HIDDEN}@h?decode_responses=1", "unknown parameter decode_responses"),
        ("redis://h?socket_timeout=soon", "parameter socket_timeout that is no number"),
        ("redis://h?ssl_cert_reqs=none", "ssl_cert_reqs without TLS; use rediss://"),
        ("unix:///run/redis?socket_keepalive=1", "socket_keepalive without TCP"),
        (f"redis://:{HIDDEN}@h:port", "malformed"),
        (f"redis://:{HIDDEN}@h:99999/0", "malformed"),
        (f"redis://:{HIDDEN}@h:0/0", "has the port 0"),
        (f"redis://:{HIDDEN}@h/abc", "a database that is no number"),
        (f"redis://:{HIDDEN}@h/1/2", "a database that is no number"),
        (f"redis://:{HIDDEN}@/0", "names no host"),
        ("redis://", "names no host"),
        ("unix://", "names no socket"),
        ("unix://run/redis.sock", "names no socket"),
        ("redis://h?socket_timeout=nan", "parameter socket_timeout that is no number"),
        ("redis://h?socket_timeout=-1", "parameter socket_timeout that is no number"),
        # The parser ends the login at "/", "?" and "#".
        ("redis://:a/b@host", "malformed"),
        (f"redis://:1/{HIDDEN}@host", "malformed"),
        (f"redis://:1?{HIDDEN}=1@host", "malformed"),
        (f"redis://:1#{HIDDEN}@host", "malformed"),
    ],
)
def test_a_redis_url_that_the_client_cannot_use_is_refused(url: str, words: str) -> None:
    assert words in find_problem(REDIS_URL=url)


@pytest.mark.parametrize("path", ["", "/", "/3", "/3/"])
def test_a_database_of_redis_may_end_with_a_slash(path: str) -> None:
    url = f"redis://h:6379{path}"

    assert read_settings({"REDIS_URL": url}).redis_url == url
    assert ConnectionPool.from_url(url).connection_kwargs.get("db", 0) == (3 if "3" in path else 0)


@pytest.mark.parametrize("name", ["pg_toast", 'a"b', "a b", "ä", "1a", "x" * 64])
def test_a_schema_needs_a_plain_name(name: str) -> None:
    assert "is no name of a schema" in find_problem(DATABASE_URL="postgres://h/d", DATABASE_SCHEMA=name)
    problem = find_sink_problem(f"url = \"postgres://h/d\"\nschema = '{name}'")
    assert problem.startswith("routes.toml:4: [sinks.main], schema: is no name of a schema")


def test_sqlite_has_no_schema() -> None:
    assert "SQLite has no schemas" in find_problem(DATABASE_URL="sqlite:///x.db", DATABASE_SCHEMA="tenant")
    assert "SQLite has no schemas" in find_problem(DATABASE_SCHEMA="tenant")
    assert "SQLite has no schemas" in find_sink_problem('url = "sqlite:///x.db"\nschema = "tenant"')


@pytest.mark.parametrize(
    ("url", "owner_url", "words"),
    [
        ("postgres://h/d", f"postgres://u:{HIDDEN}@h:port/d", "malformed host or port"),
        ("postgres://h/d", "sqlite:///x.db", "SQLite has no roles"),
        ("sqlite:///x.db", f"postgres://u:{HIDDEN}@h/d", "SQLite has no roles"),
        ("", f"postgres://u:{HIDDEN}@h/d", "SQLite has no roles"),
    ],
)
def test_a_role_that_migrates_needs_postgresql(url: str, owner_url: str, words: str) -> None:
    problem = find_problem(DATABASE_URL=url, MIGRATION_DATABASE_URL=owner_url)

    assert problem.startswith("MIGRATION_DATABASE_URL: ")
    assert words in problem


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgres://u:p%40@h1:1,h2/d", {"host": "h1,h2", "port": "1,5432", "password": "p@"}),
        ("postgres://u@[::1]:5,h2:6/d", {"host": "::1,h2", "port": "5,6", "dbname": "d"}),
        (
            "postgresql+psycopg://h1,h2?target_session_attrs=read-write",
            {"target_session_attrs": "read-write"},
        ),
        ("postgres://u@/d?host=h1,h2&port=1,2", {"host": "h1,h2", "port": "1,2"}),
    ],
)
def test_several_hosts_reach_the_driver(url: str, expected: dict[str, str]) -> None:
    engine = open_engine(url)

    _, arguments = engine.dialect.create_connect_args(engine.url)

    assert expected.items() <= arguments.items()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://neondb_owner:npg_x@ep-cool-sea-a1b2-pooler.us-east-2.aws.neon.tech/neondb"
            "?sslmode=require&channel_binding=require",
            {
                "host": "ep-cool-sea-a1b2-pooler.us-east-2.aws.neon.tech",
                "sslmode": "require",
                "channel_binding": "require",
            },
        ),
        # Neon, for clients that do not send the host name in TLS.
        ("postgres://u:p@h/d?sslmode=require&options=endpoint%3Dep-cool", {"options": "endpoint=ep-cool"}),
        ("postgres://u:p@h/d?options=project%3Dep-cool%20-c%20work_mem%3D8MB", {"dbname": "d"}),
        (
            "postgresql://postgres.abcdefgh:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres",
            {
                "user": "postgres.abcdefgh",
                "host": "aws-0-eu-central-1.pooler.supabase.com",
                "port": 6543,
                "dbname": "postgres",
            },
        ),
        (
            "postgres://postgres.abcdefgh:a%40b@h:5432/postgres?options=reference%3Dabcdefgh",
            {"password": "a@b", "options": "reference=abcdefgh"},
        ),
        (
            "postgresql://app:p@x.abcdefgh.eu-west-1.rds.amazonaws.com:5432/app"
            "?sslmode=verify-full&sslrootcert=/etc/ssl/rds.pem",
            {"sslmode": "verify-full", "sslrootcert": "/etc/ssl/rds.pem"},
        ),
        ("postgres://u%40tenant:p@h.postgres.database.azure.com/d?sslmode=require", {"user": "u@tenant"}),
        (
            "postgres://u:p@/d?host=/cloudsql/project:region:instance",
            {"host": "/cloudsql/project:region:instance"},
        ),
    ],
    ids=[
        "Neon",
        "Neon endpoint",
        "Neon project",
        "Supabase",
        "Supabase options",
        "RDS",
        "Azure",
        "Cloud SQL",
    ],
)
def test_urls_of_providers_reach_the_driver(url: str, expected: dict[str, object]) -> None:
    read = read_settings({"DATABASE_URL": url, "MIGRATION_DATABASE_URL": url})
    engine = open_engine(read.database_url)

    _, arguments = engine.dialect.create_connect_args(engine.url)

    assert read.migration_database_url == url
    assert expected.items() <= arguments.items()


@pytest.mark.parametrize(
    ("parameter", "hint"),
    [
        ("pgbouncer=true", "a pooler such as PgBouncer is recognized"),
        ("supa=base-pooler.x", "remove it"),
        ("workaround=supabase-pooler.vercel", "remove it"),
        ("pool_mode=transaction&sslmode=require", "remove it"),
        ("pool_timeout=15&connection_limit=1", "remove it: each process has its own pool"),
        ("uselibpqcompat=true", "remove it"),
    ],
)
def test_parameters_of_providers_for_other_drivers_are_refused_by_name(parameter: str, hint: str) -> None:
    problem = find_problem(DATABASE_URL=f"postgres://postgres.abc:{HIDDEN}@h:6543/postgres?{parameter}")

    assert f"unknown parameter {parameter.partition('=')[0]};" in problem
    assert hint in problem


PASSWORDS = st.text(string.punctuation + "aZ09 é", min_size=1, max_size=12).map(
    lambda text: f"{HIDDEN}{text}{HIDDEN}"
)


def read_all(url: str) -> Iterator[str]:
    """Yield the problems of a URL as each setting and at each place of the routes file."""
    for name in ("REDIS_URL", "DATABASE_URL", "TRUTO_API_URL"):
        with suppress_problems() as problems:
            read_settings({name: url})
        assert all(problem.startswith(f"{name}: ") for problem in problems)
        yield from problems
    quoted = url.replace("\\", "\\\\").replace('"', '\\"').replace("$", "")
    for table in ("sinks.main", "[notify]"):
        with suppress_problems() as problems:
            read_routes(f'[{table}]\ntype = "sql"\nurl = "{quoted}"\n', source="routes.toml", variables={})
        yield from problems


@contextmanager
def suppress_problems() -> Iterator[list[str]]:
    problems: list[str] = []
    try:
        yield problems
    except ConfigError as error:
        problems += error.problems


@given(
    password=PASSWORDS,
    scheme=st.sampled_from(["redis", "rediss", "unix", "postgres", "postgresql", "mysql", "mariadb", "http"]),
)
def test_a_password_of_any_characters_is_never_shown(password: str, scheme: str) -> None:
    assert not [problem for problem in read_all(f"{scheme}://user:{password}@host/0") if HIDDEN in problem]


def test_a_password_with_special_characters_is_accepted_if_it_is_percent_encoded() -> None:
    for url in (
        "redis://:a%2Fb%3Fc%23d%40e@host:6379/1",
        "rediss://user:p@ss@host",
        "unix://:p%40@/run/redis.sock?db=1",
    ):
        assert read_settings({"REDIS_URL": url}).redis_url == url
    for url in (
        "postgres://u:a%40b@h:5432/d",
        "postgres://u:a/b?c#d@h/d",
        "postgres:///d?host=/run/pg&user=a%40b",
    ):
        assert read_settings({"DATABASE_URL": url}).database_url == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:p@h", "names no database"),
        ("mysql://u:p@h:3306/", "names no database"),
        (f"mysql://u:{HIDDEN}@h:port/d", "malformed host or port"),
        (f"mysql://u:p@{HIDDEN}@h/d", "malformed; percent-encode"),
        (f"mariadb://u:{HIDDEN}@h/d?ssl-mode=REQUIRED", "unknown parameter ssl-mode; use ssl_mode=REQUIRED"),
        ("mysql://u@h/d?charset=utf8", "unknown parameter charset; remove it: connections use utf8mb4"),
        ("mysql://u@h/d?reconnect=true", "unknown parameter reconnect; remove it"),
        ("mysql://u@h/d?ssl_mode=on", "unknown ssl_mode; use one of: DISABLED"),
        ("mysql://u@h/d?read_timeout=0", "read_timeout that is not a number of seconds"),
        ("mysql://u@h/d?read_timeout=1&read_timeout=2", "read_timeout 2 times"),
        ("mysql+mysqldb://u@h/d", "unsupported URL; use postgres://…, mysql://…"),
    ],
)
def test_a_url_of_mysql_that_the_driver_would_misread_is_refused(url: str, words: str) -> None:
    problem = find_sink_problem(f'url = "{url}"')

    assert words in problem
    assert HIDDEN not in problem


def test_mysql_has_no_schema_beside_its_database() -> None:
    problem = find_sink_problem('url = "mysql://u@h/d"\nschema = "tenant"')

    assert "MySQL has no schemas beside databases; remove it" in problem


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://u:p%40@h/d", {"host": "h", "password": "p@", "database": "d", "connect_timeout": 5}),
        ("mariadb://u@h:3307/d?read_timeout=9&ssl_mode=disabled", {"port": 3307, "read_timeout": 9}),
        ("mysql+pymysql://u@/d?unix_socket=%2Frun%2Fmysqld.sock", {"unix_socket": "/run/mysqld.sock"}),
    ],
)
def test_parameters_of_mysql_reach_the_driver(url: str, expected: dict[str, object]) -> None:
    read_routes(f'[sinks.main]\ntype = "sql"\nurl = "{url}"', source="routes.toml", variables={})
    engine = open_engine(url)
    seen: dict[str, object] = {}

    @event.listens_for(engine, "do_connect", insert=True)
    def stop(_dialect: object, _record: object, _arguments: object, parameters: dict[str, object]) -> None:
        seen.update(parameters)
        raise ConnectionError

    with pytest.raises(ConnectionError), engine.connect():
        pass
    assert expected.items() <= seen.items()
    assert ("ssl_disabled" in seen) == ("disabled" in url)


def test_a_sink_in_memory_is_refused() -> None:
    assert "names no file" in find_sink_problem('url = "sqlite://"')
