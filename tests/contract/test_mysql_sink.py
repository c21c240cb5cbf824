"""The SQL sink on MariaDB: its limits, rights, errors and sessions."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from app.config.routes import ColumnConfig, Route
from app.database.engine import open_engine
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.sql.probe import find_set_up_problems, probe_database
from app.sinks.sql.sink import SqlSink
from app.sinks.sql.upkeep import keep_tables
from tests.support.mariadb import MariaDbServer
from tests.support.processes import ROOT
from tests.support.sent_records import send, write

ROUTE = Route(sinks=("main",), resource="crm/contacts")
WIDE = Route(
    sinks=("main",),
    resource="crm/contacts",
    columns={
        "name": ColumnConfig(type="text"),
        "n": ColumnConfig(type="number"),
        "j": ColumnConfig(type="json"),
    },
)
WIDE_RECORD = {"id": "2", "name": "twelve characters", "n": 70000.5, "j": {"a": 1}}


@pytest.fixture
def url(mariadb: MariaDbServer) -> Iterator[str]:
    with mariadb.database() as url:
        yield url


@pytest.fixture
def sql(url: str) -> Iterator[SqlSink]:
    sink = SqlSink(url)
    yield sink
    sink.close()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = open_engine(url)
    yield engine
    engine.dispose()


def execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def read(engine: Engine, statement: str) -> Sequence[Any]:
    with engine.connect() as connection:
        return connection.execute(text(statement)).scalars().all()


def read_keys(engine: Engine) -> list[str]:
    return list(read(engine, 'SELECT "_key" FROM crm_contacts ORDER BY "_key"'))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("MODIFY COLUMN name integer", ("name", "int", "longtext")),
        ("MODIFY COLUMN name varchar(5)", ("name", "varchar(5)", "longtext")),
        ("MODIFY COLUMN n smallint", ("n", "smallint", "double")),
        ("MODIFY COLUMN n decimal(4,2)", ("n", "decimal(4,2)", "double")),
        ("MODIFY COLUMN `_key` varchar(512) COLLATE utf8mb4_general_ci", ("_key", "general_ci")),
        ("MODIFY COLUMN `_vseq` varchar(64) COLLATE utf8mb4_bin NOT NULL", ("_vseq", "utf8mb4_bin")),
        ("ADD COLUMN extra integer NOT NULL", ("extra", "NOT NULL")),
        ("DROP COLUMN `_job`", ("_job", "missing")),
        ("DROP PRIMARY KEY", ("primary key",)),
    ],
)
def test_a_table_with_a_wrong_set_up_waits_for_its_correction(
    mariadb: MariaDbServer, url: str, engine: Engine, *, change: str, named: Sequence[str]
) -> None:
    first = SqlSink(url)
    write(first, send([{"id": "1"}]), WIDE)
    first.close()
    execute(engine, "DELETE FROM crm_contacts", f"ALTER TABLE crm_contacts {change.replace('`', chr(34))}")
    sink = SqlSink(url)

    with pytest.raises(SinkRefused) as refusal:
        write(sink, send([{"id": "3"}, WIDE_RECORD], number=2), WIDE)

    assert refusal.value.reason == "sink_set_up"
    assert all(name in str(refusal.value) for name in ("table crm_contacts", *named))
    assert read_keys(engine) == []
    assert {problem.table for problem in find_set_up_problems(url, [WIDE])} == {"crm_contacts"}
    # As a person pastes it, in a session with the settings of the server.
    mariadb.execute(f"USE {engine.url.database}", *re.findall(r": (ALTER TABLE .*?;)", str(refusal.value)))
    assert write(sink, send([{"id": "3"}, WIDE_RECORD], number=2), WIDE).rejected == []
    assert read_keys(engine) == ["2", "3"]
    keep_tables(url, [WIDE])
    assert find_set_up_problems(url, [WIDE]) == []
    sink.close()


@pytest.mark.parametrize(
    ("revoked", "named"),
    [("UPDATE", "the role lacks a right"), ("ALTER", "the user lacks a right (1142)")],
)
def test_a_missing_right_waits_for_its_grant(
    mariadb: MariaDbServer, url: str, sql: SqlSink, *, revoked: str, named: str
) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    database = url.partition("@/")[2].partition("?")[0]
    mariadb.execute("CREATE OR REPLACE USER writer", f"GRANT ALL ON {database}.* TO writer")
    rights = ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER"]
    rights.remove(revoked)
    mariadb.execute(
        f"REVOKE ALL ON {database}.* FROM writer", f"GRANT {', '.join(rights)} ON {database}.* TO writer"
    )
    writer = SqlSink(url.replace("root@", "writer@"))

    with pytest.raises(SinkRefused) as refusal:
        write(writer, send([WIDE_RECORD], number=2), WIDE)

    assert refusal.value.reason == "sink_set_up"
    assert named in str(refusal.value)
    mariadb.execute(
        *[
            statement.replace("ON `crm_contacts`", f"ON {database}.crm_contacts")
            for statement in re.findall(r": (GRANT .*?;)", str(refusal.value))
        ]
    )
    assert write(writer, send([WIDE_RECORD], number=2), WIDE).written == 1
    writer.close()


def test_a_record_larger_than_a_packet_is_rejected_alone(
    mariadb: MariaDbServer, url: str, engine: Engine
) -> None:
    mariadb.execute("SET GLOBAL max_allowed_packet = 1048576")
    try:
        sink = SqlSink(url)
        # Quotes are escaped: the statement is twice as long as the record.
        records = [{"id": "1"}, {"id": "2", "text": '"' * 600_000}, {"id": "3", "text": "x" * 900_000}]

        written = write(
            sink, send([*records, *({"id": f"n{n}", "t": "é" * 300} for n in range(3000))]), ROUTE
        )

        assert [(record.ordinal, record.reason) for record in written.rejected] == [(1, "too_large")]
        assert written.written == len(read_keys(engine)) == 3002
        sink.close()
    finally:
        mariadb.execute("SET GLOBAL max_allowed_packet = 16777216")


def test_an_account_longer_than_its_column_is_rejected(sql: SqlSink, engine: Engine) -> None:
    written = write(sql, send([{"id": "1"}], account="a" * 256), ROUTE)

    assert [record.reason for record in written.rejected] == ["refused"]
    assert write(sql, send([{"id": "é" * 256}], account="🙂" * 255), ROUTE).written == 1


def test_the_settings_of_the_server_and_the_database_do_not_reach_the_sink(
    mariadb: MariaDbServer, url: str
) -> None:
    mariadb.execute("SET GLOBAL sql_mode = 'PAD_CHAR_TO_FULL_LENGTH'")
    try:
        sink, engine = SqlSink(url), open_engine(url)
        route = Route(sinks=("main",), columns={"at": ColumnConfig(type="timestamp")})
        record = {
            "id": "\\'\"",
            "text": "back\\slash \\n 'quote' %s %% 🙂",
            "at": "2026-03-29T02:30:00.123456Z",
        }

        write(sink, send([record]), route)

        assert read_keys(engine) == [record["id"]]
        assert [str(at) for at in read(engine, "SELECT at FROM crm_contacts")] == [
            "2026-03-29 02:30:00.123456"
        ]
        [settings] = read(engine, "SELECT CONCAT(@@sql_mode, @@time_zone, @@tx_isolation)")
        assert "STRICT_ALL_TABLES" in settings
        assert settings.endswith("+00:00READ-COMMITTED")
        sink.close()
        engine.dispose()
    finally:
        mariadb.execute("SET GLOBAL sql_mode = DEFAULT")


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z", "2050-06-01"])
def test_every_time_fits_its_column(sql: SqlSink, engine: Engine, at: str) -> None:
    route = Route(
        sinks=("main",),
        columns={"at": ColumnConfig(type="timestamp"), "on": ColumnConfig(type="date", path="at")},
    )

    assert write(sql, send([{"id": "1", "at": at}]), route).rejected == []

    assert [str(value)[:10] for value in read(engine, 'SELECT "at" FROM crm_contacts')] == [at[:10]]
    assert [str(value) for value in read(engine, 'SELECT "on" FROM crm_contacts')] == [at[:10]]


@pytest.mark.parametrize("word", ["select", "order", "groups", "key", "rank"])
def test_reserved_words_are_names_of_tables_and_columns(sql: SqlSink, engine: Engine, word: str) -> None:
    route = Route(sinks=("main",), columns={word: ColumnConfig(type="text")})

    for number, is_deletion in ((1, False), (2, True)):
        write(
            sql, send([{"id": "1", word: "x"}], resource=word, number=number, is_deletion=is_deletion), route
        )

    assert read(engine, f'SELECT "{word}" FROM "{word}"') == ["x"]
    assert (sql.count("a1"), sql.erase("a1")) == (1, 1)


def test_a_broken_connection_is_replaced(mariadb: MariaDbServer, sql: SqlSink, engine: Engine) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    with engine.connect() as connection:
        own = connection.execute(text("SELECT CONNECTION_ID()")).scalar_one()
        others = connection.execute(
            text("SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE()")
        )
        for id_ in others.scalars().all():
            if id_ != own:
                connection.exec_driver_sql(f"KILL {id_}")

    with pytest.raises(SinkUnavailable, match="the connection broke"):
        write(sql, send([{"id": "2"}], number=2), ROUTE)

    assert write(sql, send([{"id": "2"}], number=2), ROUTE).written == 1


def test_a_lock_of_another_session_ends_in_a_timeout_of_the_batch(
    sql: SqlSink, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules["app.database.mysql_sessions"]._SETTINGS, "innodb_lock_wait_timeout", "1")
    write(sql, send([{"id": "1"}]), ROUTE)
    sql.close()
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql("UPDATE crm_contacts SET \"_job\" = 'x'")
        began_s = time.monotonic()

        with pytest.raises(SinkUnavailable, match=r"a lock was not free in time \(1205\)") as failure:
            write(sql, send([{"id": "1"}], number=2), ROUTE)

        assert failure.value.is_batch_timeout
        assert time.monotonic() - began_s < 8


def test_a_read_only_server_is_named(mariadb: MariaDbServer, url: str, sql: SqlSink) -> None:
    write(sql, send([{"id": "1"}]), ROUTE)
    database = url.partition("@/")[2].partition("?")[0]
    mariadb.execute("CREATE OR REPLACE USER reader", f"GRANT ALL ON {database}.* TO reader")
    writer = SqlSink(url.replace("root@", "reader@"))
    mariadb.execute("SET GLOBAL read_only = ON")
    try:
        with pytest.raises(SinkUnavailable, match="accepts no writes"):
            write(writer, send([{"id": "1"}], number=2), ROUTE)
        with pytest.raises(SinkUnavailable, match="read-only"):
            probe_database(url.replace("root@", "reader@"))
    finally:
        mariadb.execute("SET GLOBAL read_only = OFF")
    assert write(writer, send([{"id": "1"}], number=2), ROUTE).written == 1
    writer.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("root@/", "nobody@/"), "no such user"),
        (("@/test_", "@/none_"), "no such database"),
        # No free port is used: nothing may listen on port 1.
        (("root@/", "root@127.0.0.1:1/"), "no server listens there"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(url: str, change: tuple[str, str], words: str) -> None:
    url = url.replace(*change)
    if "127.0.0.1" in url:
        url = url.partition("?")[0]
    with pytest.raises(SinkUnavailable, match=words):
        probe_database(url)
    sink = SqlSink(url)
    with pytest.raises(SinkUnavailable, match=words) as failure:
        write(sink, send([{"id": "secret"}]), ROUTE)
    assert "secret" not in str(failure.value)
    sink.close()


def test_a_reachable_server_passes_the_probe(url: str) -> None:
    assert probe_database(url) is None


def test_a_missing_driver_is_named_with_its_command() -> None:
    code = (
        "import sys; sys.modules['pymysql'] = None\n"
        "from app.sinks.sql.sink import SqlSink\n"
        "try: SqlSink('mysql://h/d')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert ran.stdout == (
        "SinkRefused the driver of MySQL is not installed; in the checkout, run: pip install -e '.[mysql]'\n"
    )


@pytest.fixture(scope="module")
def folding_mariadb() -> Iterator[MariaDbServer]:
    """A server as on Windows: it stores names of tables in lower case, and speaks TLS."""
    with tempfile.TemporaryDirectory(prefix="rb-") as name:
        folder = Path(name)
        make_certificate(folder)
        tls = [f"--ssl-cert={folder}/cert.pem", f"--ssl-key={folder}/key.pem"]
        server = MariaDbServer(folder, "--lower-case-table-names=1", *tls)
        yield server
        server.stop()


def make_certificate(folder: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    (folder / "key.pem").chmod(0o644)


def test_a_table_whose_name_differs_in_case_is_not_written(
    url: str, sql: SqlSink, engine: Engine, folding_mariadb: MariaDbServer
) -> None:
    execute(engine, "CREATE TABLE Crm_Contacts (id integer)")
    assert write(sql, send([{"id": "1"}]), ROUTE).written == 1

    with folding_mariadb.database() as folding_url:
        folding, other = SqlSink(folding_url), open_engine(folding_url)
        execute(other, "CREATE TABLE Crm_Contacts (id integer)")
        with pytest.raises(SinkRefused, match="was not created by this sink"):
            write(folding, send([{"id": "1"}]), ROUTE)
        folding.close()
        other.dispose()


@pytest.mark.parametrize(
    ("parameters", "is_encrypted"),
    [
        ("ssl_mode=DISABLED", False),
        ("", True),
        ("ssl_mode=REQUIRED", True),
        ("ssl_ca={folder}/cert.pem", True),
        ("ssl_mode=verify_identity&ssl_ca={folder}/cert.pem", True),
    ],
)
def test_a_connection_is_encrypted_as_its_url_says(
    folding_mariadb: MariaDbServer, parameters: str, is_encrypted: bool
) -> None:
    url = f"{folding_mariadb.url('mysql')}&{parameters.format(folder=folding_mariadb.folder)}".rstrip("&")

    engine = open_engine(url)
    with engine.connect() as connection:
        cipher = connection.execute(text("SHOW STATUS LIKE 'Ssl_cipher'")).one()[1]
    engine.dispose()

    assert bool(cipher) == is_encrypted


def test_a_certificate_that_cannot_be_verified_is_refused(folding_mariadb: MariaDbServer) -> None:
    engine = open_engine(f"{folding_mariadb.url('mysql')}&ssl_mode=VERIFY_IDENTITY")
    with pytest.raises(DBAPIError, match="certificate"), engine.connect():
        pass
    with pytest.raises(SinkUnavailable, match="TLS certificate cannot be verified"):
        probe_database(f"{folding_mariadb.url('mysql')}&ssl_mode=VERIFY_IDENTITY")
    engine.dispose()
