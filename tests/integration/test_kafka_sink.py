"""The kafka sink against a broker that crashes and stalls, and against mock brokers that answer with errors."""

import gc
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from app.cli.local.ports import find_free_port
from app.config.routes import Route
from app.config.sinks import KafkaSinkConfig
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.sinks import kafka
from app.sinks.kafka import KafkaSink, name_topic
from tests.support.kafka import KafkaServer, TopicReader, read_headers
from tests.support.mock_kafka import MockKafka, mock_kafka
from tests.support.processes import ROOT
from tests.support.sent_records import NOW, send, write
from tests.support.tls_proxy import make_certificate, tls_proxy

ROUTE = Route(sinks=("main",))
SECRET = "the-secret"
THREE = send([{"id": "1", "name": SECRET}, {"id": "2"}, {"id": "3"}])
TOPIC = "crm-contacts"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shared_sink(server: KafkaServer) -> Iterator[KafkaSink]:
    with closing(KafkaSink(server.configure())) as sink:
        yield sink


@pytest.fixture
def mock() -> Iterator[MockKafka]:
    with mock_kafka() as mock:
        mock.create_topic(TOPIC)
        yield mock


@pytest.fixture
def sink(mock: MockKafka) -> Iterator[KafkaSink]:
    with closing(KafkaSink(configure(mock.brokers))) as sink:
        yield sink


def configure(brokers: str, **changes: Any) -> KafkaSinkConfig:
    return KafkaSinkConfig.model_validate({"type": "kafka", "brokers": brokers, **changes})


def read_ids(brokers: str, topic: str = TOPIC) -> list[str]:
    with closing(TopicReader(brokers, topic)) as reader:
        return [json.loads(message.value() or b"")["id"] for message in reader.read_new()]


# Messages


def test_a_message_has_a_key_headers_and_the_record_as_it_was_sent(
    server: KafkaServer, shared_sink: KafkaSink
) -> None:
    sent = send([{"id": "17", "text": "é\n"}], resource="crm/deals", at_s=1.5, is_deletion=True)

    assert write(shared_sink, sent, ROUTE).written == 1

    with closing(TopicReader(server.brokers, "crm-deals")) as reader:
        [message] = reader.read_new()
    assert message.key() == b'["a1","crm/deals","17"]'
    assert message.value() == '{"id":"17","text":"é\\n"}'.encode()
    [record] = sent.build_batch(ROUTE).records
    assert read_headers(message) == {
        "resource": "crm/deals",
        "method": "list",
        "account": "a1",
        "key": "17",
        "version": "2026-11-24T12:00:01.500000+00:00",
        "sequence": record.sequence,
        "deleted": "true",
        "job": "j1",
        "run": "r1",
        "delivery": str(sent.header.delivery_id),
        "ordinal": "0",
        "received_at": sent.header.received_at.isoformat(timespec="microseconds"),
    }
    # Not the record's version: retention would delete old versions at once.
    assert abs(message.timestamp()[1] / 1000 - time.time()) < 3600 < abs(NOW.timestamp() - time.time())


def test_messages_of_a_key_are_in_one_partition_in_their_order(
    server: KafkaServer, shared_sink: KafkaSink
) -> None:
    server.create_topic("crm-orders", partitions=3)
    for number in range(1, 11):
        values = [{"id": str(key), "n": number} for key in range(20)]
        write(shared_sink, send(values, number=number, resource="crm/orders"), ROUTE)

    with closing(TopicReader(server.brokers, "crm-orders")) as reader:
        messages = reader.read_new()
    assert {message.partition() for message in messages} == {0, 1, 2}
    by_key: dict[bytes, list[tuple[int | None, int]]] = {}
    for message in messages:
        number = json.loads(message.value() or b"")["n"]
        by_key.setdefault(message.key() or b"", []).append((message.partition(), number))
    assert len(by_key) == 20
    for places in by_key.values():
        assert len({partition for partition, _ in places}) == 1
        assert [number for _, number in places] == list(range(1, 11))


def test_keys_of_accounts_and_resources_in_one_topic_are_different(server: KafkaServer) -> None:
    places = [("a", "b/c"), ("a", "b"), ('a","b', "c"), ("", "b/c"), ("A", "b/c")]
    with closing(KafkaSink(server.configure(topic="all"))) as sink:
        for account, resource in places:
            write(sink, send([{"id": "c"}, {"id": '","c'}], account=account, resource=resource), ROUTE)

    with closing(TopicReader(server.brokers, "all")) as reader:
        keys = {message.key() for message in reader.read_new()}
    assert {tuple(json.loads(key or b"")) for key in keys} == {
        (account, resource, key) for account, resource in places for key in ("c", '","c')
    }


@pytest.mark.parametrize(
    ("resource", "topic"),
    [("crm/contacts", "crm-contacts"), ("user_groups", "user_groups"), ("a/b/C", "a-b-C")],
)
def test_a_topic_is_named_after_its_resource(resource: str, topic: str) -> None:
    assert name_topic("{resource}", resource) == topic
    assert name_topic("truto.{resource}.v1", resource) == f"truto.{topic}.v1"
    assert name_topic("fixed", resource) == "fixed"


def test_hostile_resources_have_valid_topics_of_their_own(
    server: KafkaServer, shared_sink: KafkaSink
) -> None:
    resources = [
        *("", ".", "..", "/", "//", "a-b", "a/b", "a.b", "a_b", "a b", "a\0b", "a\nb", "é", "../../x", "A/B"),
        *("x" * 100, "x" * 101, "x" * 3000, "é" * 300, "__consumer_offsets ", "a/b/", "{resource}"),
    ]

    topics = [name_topic("{resource}", resource) for resource in resources]

    assert len(set(topics)) == len(resources)
    for topic in topics:
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic)
        assert topic not in (".", "..")
    for resource in resources:
        assert write(shared_sink, send([{"id": "1"}], resource=resource), ROUTE).written == 1


# Rejected records


def test_a_record_that_is_too_large_is_rejected_alone(server: KafkaServer) -> None:
    sent = send([{"id": "1"}, {"id": "2", "text": SECRET * 1000}, {"id": "3"}], resource="crm/sizes")
    with closing(KafkaSink(server.configure(max_message_bytes=5000))) as sink:
        written = write(sink, sent, ROUTE)

    assert written.written == 2
    [rejected] = written.rejected
    assert (rejected.ordinal, rejected.reason) == (1, "too_large")
    assert SECRET not in rejected.message
    assert sorted(read_ids(server.brokers, "crm-sizes")) == ["1", "3"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(KafkaError.MSG_SIZE_TOO_LARGE, "too_large"), (KafkaError.INVALID_RECORD, "broker_rejected")],
)
def test_of_records_that_brokers_reject_together_only_the_cause_is_rejected(
    mock: MockKafka, sink: KafkaSink, code: int, reason: str
) -> None:
    # The request with all three, then that with the second one.
    mock.fail_next_requests(code, 0, code)

    written = write(sink, THREE, ROUTE)

    assert (written.written, [(r.ordinal, r.reason) for r in written.rejected]) == (2, [(1, reason)])
    assert read_ids(mock.brokers) == ["1", "3"]


def test_many_rejected_records_are_sent_in_smaller_batches(
    mock: MockKafka, sink: KafkaSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_BATCH_TIMEOUT_S", 2.0)
    write(sink, send([{"id": "0"}]), ROUTE)
    mock.slow_down(700)
    mock.fail_next_requests(KafkaError.MSG_SIZE_TOO_LARGE)

    with pytest.raises(SinkUnavailable, match="within 2 s") as failure:
        write(sink, send([{"id": str(number)} for number in range(10)]), ROUTE)

    assert failure.value.is_batch_timeout


# Failures


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, r"--producer --idempotent --topic 'crm-contacts'$"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, r"no right to write \(CLUSTER_AUTHORIZATION_FAILED\)"),
        (KafkaError.POLICY_VIOLATION, "POLICY_VIOLATION"),
        (KafkaError.TOPIC_EXCEPTION, "correct the settings of topic crm-contacts"),
    ],
)
def test_a_refusal_names_the_next_step_and_ends_with_its_cause(
    mock: MockKafka, sink: KafkaSink, code: int, message: str
) -> None:
    mock.fail_next_requests(code)

    with pytest.raises(SinkRefused, match=message) as refusal:
        write(sink, THREE, ROUTE)

    assert refusal.value.reason == "sink_set_up"
    assert SECRET not in str(refusal.value)
    assert write(sink, THREE, ROUTE).written == 3


def test_a_missing_topic_is_refused_until_it_is_created(
    mock: MockKafka, sink: KafkaSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_UNKNOWN_TOPIC_TIMEOUT_S", 0.5)
    mock.fail_topic("crm-new", KafkaError.UNKNOWN_TOPIC_OR_PART)
    sent = send([{"id": "1"}], resource="crm/new")

    with pytest.raises(SinkRefused, match=f"--bootstrap-server {mock.brokers} --create --topic crm-new$"):
        write(sink, sent, ROUTE)
    # Other topics are written meanwhile.
    assert write(sink, THREE, ROUTE).written == 3

    mock.fail_topic("crm-new", 0)
    mock.create_topic("crm-new")
    assert write(sink, sent, ROUTE).written == 1


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_LEADER_FOR_PARTITION,
    ],
)
def test_a_short_failure_of_a_broker_neither_fails_nor_repeats_a_message(
    mock: MockKafka, sink: KafkaSink, code: int
) -> None:
    mock.fail_next_requests(code, code)

    assert write(sink, THREE, ROUTE).written == 3

    assert read_ids(mock.brokers) == ["1", "2", "3"]


def test_a_fatal_error_of_the_producer_ends_with_the_next_attempt(
    mock: MockKafka, sink: KafkaSink, capfd: pytest.CaptureFixture[str]
) -> None:
    mock.fail_next_requests(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)

    with pytest.raises(SinkUnavailable):
        write(sink, THREE, ROUTE)

    assert write(sink, THREE, ROUTE).written == 3
    assert "FATAL" not in capfd.readouterr().err


def test_brokers_that_are_down_fail_a_batch_within_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    brokers = f"127.0.0.1:{find_free_port()}"
    with closing(KafkaSink(configure(brokers))) as sink:
        began_s = time.monotonic()
        with pytest.raises(SinkUnavailable, match=f"{brokers} cannot be reached") as failure:
            write(sink, THREE, ROUTE)
        with pytest.raises(SinkUnavailable, match="cannot be reached"):
            sink.ping()

    assert time.monotonic() - began_s < 8
    assert not isinstance(failure.value, SinkRefused)
    assert not failure.value.is_batch_timeout
    assert capfd.readouterr() == ("", "")


def test_a_batch_that_fails_half_way_is_sent_again_as_a_whole(mock: MockKafka, sink: KafkaSink) -> None:
    # Each is a request of its own.
    sent = send([{"id": str(number), "text": "x" * 600_000} for number in range(3)])
    mock.fail_next_requests(0, KafkaError.POLICY_VIOLATION)

    with pytest.raises(SinkRefused):
        write(sink, sent, ROUTE)
    assert "0" in read_ids(mock.brokers)
    assert write(sink, sent, ROUTE).written == 3

    ids = read_ids(mock.brokers)
    assert len(ids) > 3
    assert ids[-3:] == ["0", "1", "2"]


def test_a_broker_that_crashes_gets_the_whole_batch_again(tmp_path: Path) -> None:
    server = KafkaServer(tmp_path)
    try:
        with closing(KafkaSink(server.configure())) as sink:
            assert write(sink, THREE, ROUTE).written == 3
            server.kill()
            with pytest.raises(SinkUnavailable):
                write(sink, THREE, ROUTE)
            server.start()

            # The new broker has none of the messages before: only those of this attempt.
            assert write(sink, THREE, ROUTE).written == 3
        assert sorted(read_ids(server.brokers)) == ["1", "2", "3"]
    finally:
        server.stop()


def test_a_broker_that_stalls_fails_the_batch_at_its_deadline(
    server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(KafkaSink(server.configure(topic="stalled"))) as sink:
        write(sink, THREE, ROUTE)
        with server.stalled(), monkeypatch.context() as patch:
            patch.setattr(kafka, "_BATCH_TIMEOUT_S", 1.0)
            began_s = time.monotonic()
            with pytest.raises(SinkUnavailable, match="within 1 s") as failure:
                write(sink, THREE, ROUTE)
            took_s = time.monotonic() - began_s

        assert 0.9 < took_s < 5
        # No message was acknowledged: a smaller batch would not help.
        assert not failure.value.is_batch_timeout
        assert write(sink, THREE, ROUTE).written == 3
    # The broker may have read the request before it stalled: repetitions, but no gap.
    assert set(read_ids(server.brokers, "stalled")) == {"1", "2", "3"}


@contextmanager
def timeout_of_a_job(seconds: float) -> Iterator[None]:
    """Raise JobTimeout in the block, as RQ does: in the handler of a signal."""

    def interrupt(*_: object) -> None:
        raise JobTimeout("the job's timeout")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def without_collections() -> Iterator[None]:
    """Collect no garbage in the block.

    Hypothesis, if it ran before, runs code at each collection, where Python drops every exception.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_after_the_timeout_of_a_job_no_message_of_it_is_sent(mock: MockKafka, sink: KafkaSink) -> None:
    write(sink, send([{"id": "0"}]), ROUTE)
    mock.slow_down(3000)

    began_s = time.monotonic()
    with pytest.raises(JobTimeout), timeout_of_a_job(0.5):
        # More than one request: most of them are not sent yet.
        write(sink, send([{"id": str(n), "text": "x" * 20_000} for n in range(2000)]), ROUTE)
    assert time.monotonic() - began_s < 3

    mock.slow_down(0)
    assert write(sink, THREE, ROUTE).written == 3
    assert read_ids(mock.brokers)[-3:] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("first_s", "last_s", "attempts"),
    [
        pytest.param(20e-6, 1e-3, 200, id="while the producer opens"),
        pytest.param(0.5e-3, 10e-3, 20, id="between two messages"),
    ],
)
def test_the_timeout_of_a_job_is_never_lost(
    shared_sink: KafkaSink, first_s: float, last_s: float, attempts: int
) -> None:
    # The library turns most exceptions that reach it there into others.
    records = [{"id": str(number)} for number in range(5000)]
    batch = send(records, resource="crm/interrupted").build_batch(ROUTE)

    def write_until_the_timeout() -> None:
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            shared_sink.write(batch, ROUTE)

    for attempt in range(attempts):
        seconds = first_s + (last_s - first_s) * attempt / attempts
        with without_collections(), pytest.raises(JobTimeout), timeout_of_a_job(seconds):
            write_until_the_timeout()


def test_a_batch_larger_than_the_queue_is_sent_in_bounded_memory(
    server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_QUEUE_MESSAGES", 100)
    with closing(KafkaSink(server.configure())) as sink:
        sent = send([{"id": str(number)} for number in range(3000)], resource="crm/many")
        assert write(sink, sent, ROUTE).written == 3000

    assert sorted(map(int, read_ids(server.brokers, "crm-many"))) == list(range(3000))


# Security


def test_a_wrong_login_is_refused_without_the_login(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = KafkaServer(tmp_path, "--authentication")
    login = {"security_protocol": "SASL_PLAINTEXT", "username": "the-user", "password": SECRET}
    config = server.configure(**login, sasl_mechanism="SCRAM-SHA-256")
    try:
        with closing(KafkaSink(config)) as sink:
            calls: tuple[Callable[[], object], ...] = (lambda: write(sink, THREE, ROUTE), sink.ping)
            for call in calls:
                with pytest.raises(SinkRefused, match=r"refuse the login .*; correct `username`") as refusal:
                    call()
                assert not {"the-user", SECRET} & set(re.findall(r"[\w-]+", str(refusal.value)))
    finally:
        server.stop()

    output = "".join(capfd.readouterr())
    assert SECRET not in output
    assert "the-user" not in output
    assert SECRET not in repr(config)
    assert "the-user" not in repr(config)


def test_tls_is_verified_with_the_file_of_an_authority(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        server = KafkaServer(tmp_path, advertised=address)
        host, _, port = server.brokers.partition(":")
        try:
            with tls_proxy(listening, (host, int(port)), context):
                config = configure(address, security_protocol="SSL", ca_file=str(certificate))
                with closing(KafkaSink(config)) as sink:
                    assert write(sink, THREE, ROUTE).written == 3
                wrong = {"": f"TLS with {address} failed", str(tmp_path / "missing"): "`ca_file`"}
                for ca_file, message in wrong.items():
                    config = configure(address, security_protocol="SSL", ca_file=ca_file)
                    with closing(KafkaSink(config)) as sink, pytest.raises(SinkRefused, match=message):
                        write(sink, THREE, ROUTE)
        finally:
            server.stop()


def test_a_probe_of_reachable_brokers_writes_nothing(mock: MockKafka, sink: KafkaSink) -> None:
    sink.ping()

    assert read_ids(mock.brokers) == []


def test_a_missing_library_names_the_command_that_installs_it(tmp_path: Path) -> None:
    (tmp_path / "confluent_kafka.py").write_text("raise ModuleNotFoundError('confluent_kafka')")
    routes = tmp_path / "routes.toml"
    routes.write_text(
        '[sinks.bus]\ntype = "kafka"\nbrokers = "127.0.0.1:9092"\n[[routes]]\nsinks = ["bus"]\n'
    )
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
        "ROUTES_FILE": str(routes),
        "REDIS_URL": "redis://127.0.0.1:1",
        "TRUTO_WEBHOOK_SECRET": "x" * 32,
    }

    ran = subprocess.run(
        [sys.executable, "-m", "app.cli", "worker"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ran.returncode == 2, ran.stderr
    assert "[sinks.bus]: Kafka needs a library; in the checkout, run: pip install -e '.[kafka]'" in (
        " ".join(ran.stderr.split())
    )
