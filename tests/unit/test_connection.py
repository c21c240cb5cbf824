"""A client's connection: its turns and deadlines, on socket pairs."""

import time
from collections.abc import Iterator
from contextlib import suppress

import gevent
import pytest
from gevent import socket

from app.web.connection import HEAD_TIMEOUT_S, WRITE_TIMEOUT_S, Connection
from app.web.unverified_rate import UnverifiedRate
from tests.support.waiting import measure_slowdown

MIB = 1024 * 1024


class Request:
    """The part of gunicorn's request that a connection needs."""

    must_close = False


@pytest.fixture
def sockets() -> Iterator[tuple[Connection, socket.socket]]:
    server, client = socket.socketpair()
    connection = Connection(server, UnverifiedRate())
    yield connection, client
    connection.close()
    client.close()


def receive_to_end(connection: Connection, size: int) -> None:
    while connection.recv(size):
        pass


def test_a_response_that_is_not_read_ends_at_its_deadline(sockets: tuple[Connection, socket.socket]) -> None:
    connection, _ = sockets
    connection.begin_request(Request())
    started = time.monotonic()

    with pytest.raises(BrokenPipeError):
        connection.sendall(b"x" * 64 * MIB)
    # All writes of a response have one deadline.
    with pytest.raises(BrokenPipeError):
        connection.sendall(b"x")

    assert WRITE_TIMEOUT_S <= time.monotonic() - started < WRITE_TIMEOUT_S + 2 * measure_slowdown()


def test_a_response_that_is_read_slowly_ends_at_its_deadline(
    sockets: tuple[Connection, socket.socket],
) -> None:
    connection, client = sockets
    connection.begin_request(Request())

    def read_slowly() -> None:
        while client.recv(1000):
            gevent.sleep(0.1)

    reader = gevent.spawn(read_slowly)
    with pytest.raises(BrokenPipeError):
        connection.sendall(b"x" * 64 * MIB)
    reader.kill()


def test_a_large_response_that_is_read_is_sent_completely(sockets: tuple[Connection, socket.socket]) -> None:
    connection, client = sockets
    received = 0

    def read() -> None:
        nonlocal received
        while received < 64 * MIB:
            received += len(client.recv(MIB))

    reader = gevent.spawn(read)
    connection.begin_request(Request())
    connection.sendall(b"x" * 64 * MIB)
    reader.join()
    assert received == 64 * MIB


def test_a_body_that_never_pauses_gives_others_their_turn(sockets: tuple[Connection, socket.socket]) -> None:
    connection, client = sockets
    turns = 0

    def take_turns() -> None:
        nonlocal turns
        while True:
            gevent.sleep(1e-6)
            turns += 1

    connection.begin_request(Request())
    other = gevent.spawn(take_turns)
    for _ in range(300):
        client.sendall(b"x")
        assert connection.recv(1) == b"x"
    other.kill()

    assert turns > 1


def test_each_of_several_pipelined_requests_takes_a_turn(sockets: tuple[Connection, socket.socket]) -> None:
    connection, _ = sockets
    turns = 0

    def take_turns() -> None:
        nonlocal turns
        while True:
            gevent.sleep(1e-6)
            turns += 1

    other = gevent.spawn(take_turns)
    for _ in range(50):
        connection.begin_request(Request())
        connection.end_request()
    other.kill()

    assert turns >= 40


def test_an_evicted_connection_receives_only_bytes_that_have_arrived(
    sockets: tuple[Connection, socket.socket],
) -> None:
    connection, client = sockets
    connection.begin_request(Request())
    client.sendall(b"arrived")

    connection.evict()

    assert connection.recv(100) == b"arrived"
    assert connection.recv(100) == b""


def test_eviction_ends_a_body_that_never_pauses(sockets: tuple[Connection, socket.socket]) -> None:
    connection, client = sockets

    def send_forever() -> None:
        with suppress(OSError):
            while True:
                client.sendall(b"x" * MIB)

    connection.begin_request(Request())
    sender = gevent.spawn(send_forever)
    assert connection.recv(1000)
    connection.evict()

    with gevent.Timeout(10 * measure_slowdown()):
        receive_to_end(connection, 1000)
    sender.kill()


def test_eviction_ends_a_write_that_waits(sockets: tuple[Connection, socket.socket]) -> None:
    connection, _ = sockets
    connection.begin_request(Request())
    gevent.spawn_later(0.1, connection.evict)
    started = time.monotonic()

    with pytest.raises(BrokenPipeError):
        connection.sendall(b"x" * 64 * MIB)

    assert time.monotonic() - started < WRITE_TIMEOUT_S


def test_no_request_begins_after_an_idle_connection_is_closed(
    sockets: tuple[Connection, socket.socket],
) -> None:
    connection, client = sockets
    connection.begin_request(Request())
    connection.end_request()
    assert connection.is_idle

    connection.close_unless_sending()

    with pytest.raises(OSError, match="pipe"):
        client.sendall(b"a head")
    assert connection.recv(100) == b""


def test_a_connection_whose_request_has_arrived_is_not_closed(
    sockets: tuple[Connection, socket.socket],
) -> None:
    connection, client = sockets
    client.sendall(b"a head")

    connection.close_unless_sending()

    assert connection.recv(100) == b"a head"
    client.sendall(b" and a body")
    assert connection.recv(100) == b" and a body"


def test_a_head_that_drips_ends_at_its_deadline(sockets: tuple[Connection, socket.socket]) -> None:
    connection, client = sockets

    def drip() -> None:
        with suppress(OSError):
            while True:
                client.sendall(b"x")
                gevent.sleep(0.2)

    dripping = gevent.spawn(drip)
    started = time.monotonic()
    with pytest.raises(ConnectionResetError):
        receive_to_end(connection, 1)
    dripping.kill()

    assert HEAD_TIMEOUT_S <= time.monotonic() - started < HEAD_TIMEOUT_S + 2 * measure_slowdown()


def test_a_head_without_end_is_refused(sockets: tuple[Connection, socket.socket]) -> None:
    connection, client = sockets
    sender = gevent.spawn(client.sendall, b"x" * MIB)

    with pytest.raises(ConnectionResetError):
        receive_to_end(connection, 8192)
    sender.kill()


def test_unverified_requests_are_spread_only_during_a_flood() -> None:
    rate = UnverifiedRate()
    assert rate.reserve_start() == 0
    for _ in range(50):
        rate.record()
    assert not rate.is_exceeded()

    for _ in range(500):
        rate.record()

    assert rate.is_exceeded()
    delays_s = [rate.reserve_start() for _ in range(10)]
    assert delays_s == sorted(delays_s)
    assert delays_s[-1] > delays_s[0]


def test_a_flood_closes_connections_without_a_verified_body(
    sockets: tuple[Connection, socket.socket],
) -> None:
    connection, _ = sockets
    for _ in range(500):
        connection.begin_request(first := Request())
        connection.end_request()
    assert first.must_close

    connection.begin_request(signed := Request())
    connection.mark_verified()
    connection.end_request()
    assert not signed.must_close

    connection.begin_request(later := Request())
    assert not later.must_close
