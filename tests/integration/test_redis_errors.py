"""Errors of Redis, in words that name the cause and the next step."""

import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from app.cli.local.ports import find_free_port
from app.errors import QueueUnavailable
from app.redis.connection import connect_redis, diagnose_redis
from app.redis.queue import DeliveryQueue
from tests.integration.test_doctor import doctor
from tests.support.tls_proxy import make_certificate, tls_proxy
from tests.support.valkey import ValkeyServer


@contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Accept connections on a free port, and answer each in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=_answer, args=(answer, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def _answer(answer: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection:
        try:
            answer(connection)
        except OSError:
            # A client that refuses the certificate ends the handshake.
            return


@contextmanager
def self_signed_server() -> Iterator[int]:
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        certificate, key = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
        command += ["-keyout", str(key), "-out", str(certificate), "-days", "1"]
        subprocess.run(command, check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)

        def answer(connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as encrypted:
                while encrypted.recv(4096):
                    encrypted.sendall(b"+OK\r\n")

        with listening(answer) as port:
            yield port


def find_error(url: str) -> str:
    client = connect_redis(url, tls_verify=True)
    with pytest.raises(QueueUnavailable) as caught:
        DeliveryQueue(client, "test").set_marker()
    client.close()
    message = str(caught.value)
    assert message.startswith("Redis failed: ")
    assert "hunter2" not in message
    return message


def test_a_self_signed_certificate_names_the_setting(tmp_path: Path) -> None:
    with self_signed_server() as port:
        message = find_error(f"rediss://:hunter2@127.0.0.1:{port}/0")
        output = doctor(tmp_path, "--no-post", REDIS_URL=f"rediss://:hunter2@127.0.0.1:{port}/0")

    assert "cannot be verified" in message
    assert "REDIS_TLS_VERIFY=0" in message
    assert output.levels("redis") == {"reachable": "fail"}
    assert "certificate" in output.message("redis", "reachable")


def test_a_self_signed_server_is_accepted_with_the_setting(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*make_certificate(tmp_path))
    server_port = find_free_port()
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = ValkeyServer(Path(folder), "--port", str(server_port))
        try:
            with socket.socket() as front:
                front.bind(("127.0.0.1", 0))
                with tls_proxy(front, ("127.0.0.1", server_port), context):
                    url = f"rediss://127.0.0.1:{front.getsockname()[1]}"
                    refused = find_error(url)
                    client = connect_redis(url, tls_verify=False)
                    accepted = client.ping()
                    client.close()
        finally:
            server.stop()

    assert "certificate is self-signed" in refused
    assert "heroku config:set REDIS_TLS_VERIFY=0" in refused
    assert accepted


def test_a_certificate_of_another_host_is_no_reason_to_skip_its_verification(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def answer(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).recv(4096)

    with listening(answer) as port:
        message = find_error(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}")

    assert "certificate is for another host" in message
    assert "REDIS_TLS_VERIFY" not in message


@pytest.mark.parametrize(
    ("code", "words"),
    [(9, "not valid yet"), (10, "has expired"), (20, "ssl_ca_certs"), (92, "renew it with keyUsage")],
)
def test_other_faults_of_a_certificate_have_their_own_remedy(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_code = code

    message = " ".join(diagnose_redis(error))

    assert words in message
    assert "REDIS_TLS_VERIFY" not in message


def test_tls_to_a_server_without_tls_names_the_scheme() -> None:
    def answer(connection: socket.socket) -> None:
        while connection.recv(4096):
            connection.sendall(b"-ERR unknown command\r\n")

    with listening(answer) as port:
        assert "the server speaks no TLS; use redis://" in find_error(f"rediss://127.0.0.1:{port}/0")


def test_a_server_with_tls_names_the_scheme() -> None:
    with self_signed_server() as port:
        assert "if it requires TLS, use rediss://" in find_error(f"redis://127.0.0.1:{port}/0")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:hunter2@127.0.0.1:1/0", "no server listens there"),
        ("redis://no-such-host.invalid/0", "no such host"),
        ("unix:///no/such/socket", "no server listens there"),
    ],
)
def test_a_server_that_is_not_there(url: str, words: str) -> None:
    assert words in find_error(url)


def test_a_wrong_and_a_missing_password(private_valkey: ValkeyServer, private_redis: Redis) -> None:
    with_password = private_valkey.url.replace("unix://", "unix://:hunter2@")
    unknown_user = find_error(with_password.replace("://:", "://nobody:"))
    private_redis.config_set("requirepass", "another")

    assert "wrong user or password" in unknown_user
    assert "wrong user or password" in find_error(with_password)
    assert "requires a password, and REDIS_URL has none" in find_error(private_valkey.url)


def test_a_full_redis_and_a_user_without_rights(private_valkey: ValkeyServer, private_redis: Redis) -> None:
    private_redis.acl_setuser(
        "reader", enabled=True, passwords="+hunter2", keys=["*"], commands=["+get", "+ping"]
    )
    reader_url = private_valkey.url.replace("unix://", "unix://reader:hunter2@")
    private_redis.config_set("maxmemory", 1)

    assert "its memory is full" in find_error(private_valkey.url)
    assert "lacks the right" in find_error(reader_url)


def test_a_cluster_is_not_supported(tmp_path: Path) -> None:
    # Without a port of its own, the bus takes one that may not exist: 10,000 higher.
    ports = ["--port", str(find_free_port()), "--cluster-port", str(find_free_port())]
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        server = ValkeyServer(Path(folder), *ports, "--cluster-enabled", "yes")
        try:
            assert "it is a Redis Cluster, which is not supported" in find_error(server.url)
            output = doctor(tmp_path, "--no-post", REDIS_URL=server.url)
        finally:
            server.stop()

    assert output.levels("redis")["cluster"] == "fail"


def test_a_user_without_info_and_config_is_a_warning(
    private_valkey: ValkeyServer, private_redis: Redis, tmp_path: Path
) -> None:
    private_redis.acl_setuser(
        "receiver",
        enabled=True,
        passwords="+hunter2",
        keys=["*"],
        channels=["*"],
        categories=["+@all"],
        commands=["-info", "-config"],
    )
    url = private_valkey.url.replace("unix://", "unix://receiver:hunter2@")

    output = doctor(tmp_path, "--no-post", REDIS_URL=url)

    assert output.levels("redis") == {"details": "warn"}
    assert "ACL SETUSER" in output.message("redis", "details")
