"""The kafka sink: a message for each record, which the brokers acknowledge."""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from app.config.routes import Route
from app.config.sinks import KafkaSinkConfig
from app.errors import JobTimeout, SinkUnavailable
from app.sinks.base import Batch, Record, RejectedRecord, WriteResult
from app.sinks.kafka_errors import REJECTIONS, ConnectionFaults, translate_error
from app.truto.records import to_json

# All messages of a batch together: a job ends after 25 s.
_BATCH_TIMEOUT_S = 15.0
_PROBE_TIMEOUT_S = 10.0
# Python runs signal handlers, such as that of a job's timeout, only between two calls.
_POLL_S = 0.1
_CALL_TIMEOUT_S = 1.0
# Shorter than the batch's timeout, which would hide the cause.
_UNKNOWN_TOPIC_TIMEOUT_S = 5.0
_QUEUE_KIB = 65_536
_QUEUE_MESSAGES = 10_000
# Of the 249 that Kafka allows.
_MAX_RESOURCE_CHARS = 100

# Nothing of the library's log is shown: it may quote the login.
_silent_logger = logging.getLogger("app.sinks.kafka.silent")
_silent_logger.addHandler(logging.NullHandler())
_silent_logger.propagate = False


class KafkaSink:
    """Topics of a Kafka cluster that get every version of a record as a message, see docs/sinks.md.

    `write` returns after all in-sync replicas have acknowledged every message. The producer is idempotent:
    its own retries neither repeat nor reorder messages. A batch that fails is sent again as a whole, so some
    of its messages may be in the topic twice. Nothing that the brokers answer is logged or stored, except
    for the names of errors.
    """

    def __init__(self, config: KafkaSinkConfig) -> None:
        self._config = config
        self._producer: Producer | None = None
        self._faults = ConnectionFaults()

    def write(self, batch: Batch, _route: Route) -> WriteResult:
        """Send a batch; see Sink. An empty one is not sent."""
        deadline_s = time.monotonic() + _BATCH_TIMEOUT_S
        topic = name_topic(self._config.topic, batch.resource)
        try:
            rejected = self._send(batch, batch.records, topic, deadline_s=deadline_s)
            if len(rejected) > 1:
                # Brokers reject all messages of a request together: only one alone shows its cause.
                ordinals = {record.ordinal for record in rejected}
                records = [record for record in batch.records if record.ordinal in ordinals]
                rejected = [
                    rejection
                    for record in records
                    for rejection in self._send(
                        batch, [record], topic, deadline_s=deadline_s, has_answers=True
                    )
                ]
        except KafkaException as error:
            self.close()
            raise translate_error(error.args[0], self._config, topic) from error
        except BaseException:
            # Also after the timeout of a job: no message may be sent after the next attempt's.
            self.close()
            raise
        return WriteResult(len(batch.records) - len(rejected), rejected)

    def ping(self) -> None:
        """Connect to the brokers; raises SinkUnavailable."""
        deadline_s = time.monotonic() + _PROBE_TIMEOUT_S
        try:
            producer = self._open()
            while True:
                try:
                    producer.list_topics(timeout=_CALL_TIMEOUT_S)
                    return
                except KafkaException:
                    # Runs the callbacks, which add the cause.
                    producer.poll(0)
                    if self._faults.cause or time.monotonic() >= deadline_s:
                        raise
        except KafkaException as error:
            raise translate_error(self._faults.cause or error.args[0], self._config, "") from error
        finally:
            self.close()

    def count(self, _account: str) -> int:
        """Raise SinkUnavailable: brokers cannot count by account."""
        raise SinkUnavailable(f"{self._config.place} does not report the records of an account")

    def erase(self, _account: str) -> int:
        """Raise SinkUnavailable: brokers cannot erase by account."""
        raise SinkUnavailable(
            f"nothing was erased at {self._config.place}: Kafka cannot delete single messages; wait for the "
            "topics' retention, or delete the topics"
        )

    def close(self) -> None:
        """Discard unsent messages and close the connections."""
        producer, self._producer = self._producer, None
        if producer:
            producer.purge()
            producer.flush(_CALL_TIMEOUT_S)
            producer.close()
        self._faults.clear()

    def _open(self) -> Producer:
        if self._producer:
            return self._producer
        config = self._config
        settings: dict[str, object] = {
            "bootstrap.servers": config.brokers,
            "security.protocol": config.security_protocol,
            "client.id": "rapidbridge-receiver",
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            # As in Kafka's other clients: equal keys are in one partition, whoever writes them.
            "partitioner": "murmur2_random",
            "message.max.bytes": config.max_message_bytes,
            "message.timeout.ms": round(_BATCH_TIMEOUT_S * 1000),
            "queue.buffering.max.messages": _QUEUE_MESSAGES,
            "queue.buffering.max.kbytes": _QUEUE_KIB + config.max_message_bytes // 1024,
            "reconnect.backoff.max.ms": 1000,
            "topic.metadata.propagation.max.ms": round(_UNKNOWN_TOPIC_TIMEOUT_S * 1000),
            "log_level": 0,
            "logger": _silent_logger,
            "error_cb": self._faults.add,
        }
        if config.has_login:
            settings["sasl.mechanism"] = config.sasl_mechanism
            settings["sasl.username"] = config.username
            settings["sasl.password"] = config.password
        if config.ca_file:
            settings["ssl.ca.location"] = config.ca_file
        try:
            self._producer = Producer(settings)
        except TypeError as error:
            raise _restore_timeout() from error
        return self._producer

    def _send(
        self,
        batch: Batch,
        records: Sequence[Record],
        topic: str,
        *,
        deadline_s: float,
        has_answers: bool = False,
    ) -> Sequence[RejectedRecord]:
        """Send records and wait for every acknowledgement. Return the records that cannot be stored.

        has_answers: the brokers have answered messages of the batch already.
        """
        producer = self._open()
        # Events from the time before this batch, such as the end of an idle connection.
        producer.poll(0)
        self._faults.clear()
        reports = _Reports(has_answers=has_answers, on_acknowledgement=self._faults.clear)
        for record in records:
            while not self._enqueue(producer, batch, record, topic, reports):
                self._wait(producer, topic, reports, deadline_s=deadline_s)
        while reports.number < len(records):
            self._wait(producer, topic, reports, deadline_s=deadline_s)
        return sorted(reports.rejected, key=lambda record: record.ordinal)

    def _enqueue(
        self, producer: Producer, batch: Batch, record: Record, topic: str, reports: "_Reports"
    ) -> bool:
        """Add a message to the producer's queue; return False if the queue is full."""
        report = partial(reports.add, record.ordinal)
        try:
            producer.produce(
                topic,
                key=to_json([batch.account, batch.resource, record.key]),
                value=record.json_bytes,
                headers=_format_headers(batch, record),
                on_delivery=report,
            )
        except BufferError:
            return False
        except TypeError as error:
            raise _restore_timeout() from error
        except KafkaException as error:
            report(error.args[0])
        return True

    def _wait(self, producer: Producer, topic: str, reports: "_Reports", *, deadline_s: float) -> None:
        """Wait for reports; raises an error if records cannot be sent, or after the deadline."""
        producer.poll(_POLL_S)
        if reports.failure:
            raise translate_error(reports.failure, self._config, topic)
        if cause := self._faults.cause:
            raise translate_error(cause, self._config, topic)
        if time.monotonic() >= deadline_s:
            raise SinkUnavailable(
                f"the brokers did not acknowledge the batch within {_BATCH_TIMEOUT_S:g} s; check their load, "
                "and `brokers` and `security_protocol` of the sink",
                is_batch_timeout=reports.has_answers,
            )


class _Reports:
    """Results of the messages of a batch.

    has_answers: the brokers have answered messages of the batch. failure: the first result that concerns more
    than its record.
    """

    def __init__(self, *, has_answers: bool, on_acknowledgement: Callable[[], None]) -> None:
        self._on_acknowledgement = on_acknowledgement
        self.has_answers = has_answers
        self.acknowledged = 0
        self.rejected: list[RejectedRecord] = []
        self.failure: KafkaError | None = None

    @property
    def number(self) -> int:
        """The number of messages that need no further wait."""
        return self.acknowledged + len(self.rejected)

    def add(self, ordinal: int, error: KafkaError | None, _message: Message | None = None) -> None:
        """Add the result of the message of a record."""
        if error is None:
            self.acknowledged += 1
            self.has_answers = True
            self._on_acknowledgement()
        elif rejection := REJECTIONS.get(error.code()):
            self.rejected.append(RejectedRecord(ordinal, *rejection))
        else:
            self.failure = self.failure or error


def _restore_timeout() -> JobTimeout:
    """Return what to raise for a TypeError of the library, for which it is given the right types only.

    It replaces with it the exception of a signal handler that ran during a call: the job's timeout.
    """
    return JobTimeout("the job's timeout interrupted the write")


def name_topic(template: str, resource: str) -> str:
    """Return the topic of a resource: a valid name, which no other resource has.

    template: its {resource} is replaced.
    """
    name = re.sub(r"[^A-Za-z0-9_]", lambda match: "-" if match[0] == "/" else "_", resource)
    if not re.fullmatch(r"\w+(/\w+)*", resource, re.ASCII) or len(resource) > _MAX_RESOURCE_CHARS:
        # Only these names have a dot.
        name = f"{name[:_MAX_RESOURCE_CHARS]}.{hashlib.sha256(resource.encode()).hexdigest()[:16]}"
    return template.replace("{resource}", name)


def _format_headers(batch: Batch, record: Record) -> list[tuple[str, str | bytes | None]]:
    members = {
        "resource": batch.resource,
        "method": batch.method,
        "account": batch.account,
        "key": record.key,
        "version": record.version.isoformat(timespec="microseconds"),
        "sequence": record.sequence,
        "deleted": "true" if batch.is_deletion else "false",
        "job": batch.job,
        "run": batch.run,
        "delivery": str(batch.delivery_id),
        "ordinal": str(record.ordinal),
        "received_at": batch.received_at.isoformat(timespec="microseconds"),
    }
    return [(name, text.encode()) for name, text in members.items()]
