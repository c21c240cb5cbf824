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
from app.redis.connection import connect_redis
from app.redis.queue import DeliveryQueue
from tests.integration.test_doctor import doctor
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

    assert "TLS certificate cannot be verified" in message
    assert "REDIS_TLS_VERIFY=0" in message
    assert output.levels("redis") == {"reachable": "fail"}
    assert "certificate" in output.message("redis", "reachable")


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
