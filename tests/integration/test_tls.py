"""PostgreSQL and Redis over TLS, with certificates of a private authority as RDS has them."""

import json
import os
import pwd
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import psycopg
import pytest
from redis import Redis
from sqlalchemy import select

from app.cli.local.ports import find_free_port
from app.database.engine import open_database
from app.errors import QueueUnavailable, StoreUnavailable
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from tests.support.certificates import Authority
from tests.support.commands import run_command
from tests.support.postgres import PostgresServer, find_debian_postgres
from tests.support.service import running_whole_service
from tests.support.tls_proxy import tls_proxy
from tests.support.valkey import ValkeyServer
from tests.support.web_process import make_environment

# A user as Supabase's pooler has them.
USER = "app.abcdefghijkl"
PASSWORD = "hunter2"
# No connection from the network without TLS and a password.
HBA = "local all all trust\nhostssl all all all scram-sha-256\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def server_url(authority: Authority) -> Iterator[str]:
    """The URL of an empty database, at the host that the certificate names."""
    binaries, port = find_debian_postgres(), find_free_port()
    with tempfile.TemporaryDirectory(prefix="rb-") as folder, tempfile.TemporaryDirectory() as tls:
        Path(tls).chmod(0o755)
        hba, certificate, key = (Path(tls) / name for name in ("hba.conf", "server.pem", "server.key"))
        hba.write_text(HBA)
        owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
        for source, target in zip(authority.sign("localhost"), (certificate, key), strict=True):
            shutil.copy(source, target)
            os.chown(target, owner, -1)
            target.chmod(0o600)
        options = {
            "port": str(port),
            "listen_addresses": "localhost",
            "hba_file": str(hba),
            "ssl": "on",
            "ssl_cert_file": str(certificate),
            "ssl_key_file": str(key),
        }
        server = PostgresServer(Path(folder), binaries=binaries, options=options)
        try:
            with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
                connection.execute(f"CREATE ROLE \"{USER}\" LOGIN PASSWORD '{PASSWORD}'")
                connection.execute(f'CREATE DATABASE app OWNER "{USER}" TEMPLATE template0 ENCODING UTF8')
            yield f"postgresql://{USER}:{PASSWORD}@localhost:{port}/app"
        finally:
            server.stop()


@pytest.fixture
def redis_port(authority: Authority, private_valkey: ValkeyServer) -> Iterator[int]:
    """The port of a Redis with TLS, at the host that the certificate names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("localhost"))
    with Redis.from_url(private_valkey.url) as client, socket.socket() as front:
        port = find_free_port()
        client.config_set("port", port)
        front.bind(("127.0.0.1", 0))
        with tls_proxy(front, ("127.0.0.1", port), context):
            yield front.getsockname()[1]


def test_the_whole_service_runs_over_verified_tls(
    server_url: str, authority: Authority, redis_port: int, tmp_path: Path
) -> None:
    database_url = (
        f"{server_url}?sslmode=verify-full&sslrootcert={authority.certificate}&channel_binding=require"
    )
    redis_url = f"rediss://localhost:{redis_port}/0?ssl_ca_certs={authority.certificate}"
    count = "SELECT ssl, count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = %s GROUP BY 1"
    with (
        running_whole_service(tmp_path, database_url, REDIS_URL=redis_url) as service,
        psycopg.connect(database_url) as connection,
    ):
        sent = service.rapidbridge("simulate", "--records", "40", "--batch-size", "10")
        service.wait_until_settled()
        [(has_tls, sessions)] = connection.execute(count, [USER]).fetchall()
        rows = connection.execute("SELECT FROM crm_contacts").rowcount
        output = service.rapidbridge("doctor", "--json").stdout

    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert (has_tls, rows) == (True, 10)
    assert sessions > 1
    levels = {(check["component"], check["check"]): check["level"] for check in json.loads(output)["checks"]}
    assert levels["store", "reachable"] == levels["redis", "reachable"] == "ok"
    assert PASSWORD not in output


@pytest.mark.parametrize("is_in_environment", [False, True], ids=["URL", "environment"])
@pytest.mark.parametrize(
    ("host", "parameters", "problem", "advice"),
    [
        ("localhost", {"sslmode": "verify-full", "sslrootcert": "{authority}"}, "", ""),
        (
            "localhost",
            {"sslmode": "verify-full", "sslrootcert": "{other}"},
            "TLS certificate cannot be verified",
            "sslmode=verify-full&sslrootcert=FILE",
        ),
        (
            "127.0.0.1",
            {"sslmode": "verify-full", "sslrootcert": "{authority}"},
            "TLS certificate is for another host",
            "write the host in the URL as the certificate names it",
        ),
        (
            "localhost",
            {"sslmode": "verify-full", "sslrootcert": "/no/such/file.pem"},
            "is missing, or contains none",
            "correct sslrootcert in the URL",
        ),
        (
            "localhost",
            {"sslmode": "verify-full", "sslrootcert": "/etc/hostname"},
            "is missing, or contains none",
            "correct sslrootcert in the URL",
        ),
        (
            "localhost",
            {"sslmode": "verify-full", "sslrootcert": "system"},
            "TLS certificate cannot be verified",
            "sslrootcert=FILE",
        ),
        ("localhost", {"sslmode": "disable"}, "the server requires TLS", "set sslmode=require in the URL"),
    ],
    ids=["right", "wrong authority", "wrong host", "no file", "no certificate", "of the system", "no TLS"],
)
def test_a_database_with_a_certificate_of_a_private_authority(
    server_url: str,
    authority: Authority,
    other_authority: Authority,
    tmp_path: Path,
    *,
    is_in_environment: bool,
    host: str,
    parameters: dict[str, str],
    problem: str,
    advice: str,
) -> None:
    files = {"authority": authority.certificate, "other": other_authority.certificate}
    values = {name: value.format(**files) for name, value in parameters.items()}
    url = server_url.replace("@localhost", f"@{host}")
    if is_in_environment:
        settings = {f"PG{name.upper()}": value for name, value in values.items()}
    else:
        settings, url = {}, f"{url}?{urlencode(values)}"

    ran = run_command("migrate", cwd=tmp_path, environment=make_environment(DATABASE_URL=url, **settings))

    message = " ".join(ran.stderr.split())
    assert ran.returncode == (3 if problem else 0), message
    assert problem in message
    assert advice in message
    assert PASSWORD not in message


def test_a_server_without_channel_binding_is_named(private_postgres: PostgresServer) -> None:
    database = open_database(private_postgres.url("postgres") + "&channel_binding=require")

    with pytest.raises(StoreUnavailable) as refused:
        database.read(select(1))

    assert "remove channel_binding=require from the URL" in str(refused.value)


@pytest.mark.parametrize(
    ("host", "file", "words"),
    [
        ("localhost", "{authority}", ""),
        ("localhost", "{other}", "cannot be verified; name the file of its authority in REDIS_URL"),
        ("127.0.0.1", "{authority}", "its TLS certificate is for another host"),
        ("localhost", "/no/such/file.pem", "there is no file at a path in REDIS_URL; correct ssl_ca_certs"),
        ("localhost", "/etc/hostname", "the file in ssl_ca_certs contains no certificate"),
    ],
    ids=["right", "wrong authority", "wrong host", "no file", "no certificate"],
)
def test_a_redis_with_a_certificate_of_a_private_authority(
    authority: Authority, other_authority: Authority, redis_port: int, *, host: str, file: str, words: str
) -> None:
    path = file.format(authority=authority.certificate, other=other_authority.certificate)
    with connect_redis(f"rediss://{host}:{redis_port}/0?ssl_ca_certs={path}", tls_verify=True) as client:
        queue = DeliveryQueue(client, "test")
        if not words:
            queue.ping()
            return
        with pytest.raises(QueueUnavailable) as refused:
            queue.ping()

    assert words in str(refused.value)
