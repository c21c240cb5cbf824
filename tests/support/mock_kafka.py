"""librdkafka's own mock brokers on real sockets, which answer with the errors that a test sets."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import confluent_kafka

# Of the protocol: https://kafka.apache.org/protocol.html#protocol_api_keys
PRODUCE = 0
_PRODUCER = 0


def _load_library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    [path] = folder.glob("librdkafka*")
    library = ctypes.CDLL(str(path))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    library.rd_kafka_new.restype = pointer
    library.rd_kafka_new.argtypes = [number, pointer, text, ctypes.c_size_t]
    library.rd_kafka_destroy.argtypes = [pointer]
    library.rd_kafka_mock_cluster_new.restype = pointer
    library.rd_kafka_mock_cluster_new.argtypes = [pointer, number]
    library.rd_kafka_mock_cluster_destroy.argtypes = [pointer]
    library.rd_kafka_mock_cluster_bootstraps.restype = text
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
    library.rd_kafka_mock_topic_create.argtypes = [pointer, text, number, number]
    library.rd_kafka_mock_topic_set_error.argtypes = [pointer, text, number]
    library.rd_kafka_mock_push_request_errors_array.argtypes = [
        pointer,
        ctypes.c_int16,
        ctypes.c_size_t,
        ctypes.POINTER(number),
    ]
    library.rd_kafka_mock_broker_set_rtt.argtypes = [pointer, ctypes.c_int32, number]
    return library


class MockKafka:
    """Mock brokers of this process. brokers: their addresses."""

    def __init__(self, library: ctypes.CDLL, cluster: int) -> None:
        self._library = library
        self._cluster = cluster
        self.brokers: str = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()

    def create_topic(self, topic: str, *, partitions: int = 1) -> None:
        self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)

    def fail_topic(self, topic: str, code: int) -> None:
        """Answer each request about a topic with an error; code: 0 for none."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), code)

    def fail_next_requests(self, *codes: int, request: int = PRODUCE) -> None:
        """Answer the next requests of a kind with errors. codes: one for each request, 0 for success."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, request, len(codes), array)

    def slow_down(self, delay_ms: int) -> None:
        """Answer every request after a delay."""
        self._library.rd_kafka_mock_broker_set_rtt(self._cluster, -1, delay_ms)


@contextmanager
def mock_kafka(*, brokers: int = 1) -> Iterator[MockKafka]:
    """Start mock brokers and stop them at the end."""
    library = _load_library()
    handle = library.rd_kafka_new(_PRODUCER, None, None, 0)
    cluster = library.rd_kafka_mock_cluster_new(handle, brokers)
    assert cluster
    try:
        yield MockKafka(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(handle)
