"""Errors of Kafka brokers and of librdkafka, sorted by the reaction to them."""

import time

from confluent_kafka import KafkaError

from app.config.sinks import KafkaSinkConfig
from app.errors import SinkRefused, SinkUnavailable

# The time in which connections may recover before a batch fails.
_RECOVERY_S = 1.0

# Reasons and messages of records that cannot be stored.
REJECTIONS = {
    KafkaError.MSG_SIZE_TOO_LARGE: ("too_large", "larger than `max_message_bytes` or the topic's limit"),
    KafkaError.RECORD_LIST_TOO_LARGE: ("too_large", "larger than the topic's limit"),
    KafkaError.INVALID_MSG_SIZE: ("too_large", "larger than the topic's limit"),
    KafkaError.INVALID_RECORD: ("broker_rejected", "the brokers reject the record (INVALID_RECORD)"),
}
_UNKNOWN_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
_LOGIN_FAILED = (
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
)
_NO_RIGHT = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
_REFUSALS = (
    *(KafkaError.TOPIC_EXCEPTION, KafkaError.POLICY_VIOLATION, KafkaError.SECURITY_DISABLED),
    *(KafkaError.UNSUPPORTED_VERSION, KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT),
)
# If no broker can be reached, the first of these that occurred is the cause.
_CONNECTION_ERRORS = (
    KafkaError._FATAL,
    *_LOGIN_FAILED,
    KafkaError._SSL,
    KafkaError._RESOLVE,
    KafkaError._ALL_BROKERS_DOWN,
)


def translate_error(error: KafkaError, config: KafkaSinkConfig, topic: str) -> SinkUnavailable:
    """Return the error of a sink with the next step. topic: "" if the error concerns none."""
    # Not the text of the error, which may quote a login.
    code, name, brokers = error.code(), error.name(), config.brokers
    if code in _UNKNOWN_TOPIC:
        command = f"kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic}"
        message = f"the brokers have no topic {topic}; create it: {command}"
    elif code in _LOGIN_FAILED:
        message = (
            f"the brokers refuse the login ({name}); correct `username`, `password` and `sasl_mechanism` of "
            "the sink"
        )
    elif code in _NO_RIGHT:
        command = (
            f"kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal User:NAME --producer "
            f"--idempotent --topic '{topic or '*'}'"
        )
        message = f"the user of the sink has no right to write ({name}); grant it: {command}"
    elif code == KafkaError._SSL:
        message = (
            f"TLS with {brokers} failed; set `ca_file` of the sink to the file of the authority of the "
            "brokers' certificates, or renew these"
        )
    elif code == KafkaError._INVALID_ARG:
        message = (
            "the settings of the sink cannot be used; `ca_file` has to be a readable file with PEM "
            "certificates, and `brokers` an address"
        )
    elif code in _REFUSALS:
        message = (
            f"the brokers refuse the sink's messages ({name}); correct the settings of topic "
            f"{topic or config.topic}, or name another one as `topic` of the sink"
        )
    else:
        return SinkUnavailable(f"the brokers {brokers} cannot be reached or are not ready ({name})")
    return SinkRefused("sink_set_up", message)


class ConnectionFaults:
    """Errors of a producer's connections since its last success."""

    def __init__(self) -> None:
        self._errors: dict[int, KafkaError] = {}
        self._down_since_s: float | None = None

    @property
    def cause(self) -> KafkaError | None:
        """The reason why no broker can be reached; None while connections may recover."""
        if self._down_since_s is None or time.monotonic() - self._down_since_s < _RECOVERY_S:
            return None
        return next(self._errors[code] for code in _CONNECTION_ERRORS if code in self._errors)

    def add(self, error: KafkaError) -> None:
        """Note an error."""
        self._errors[error.code()] = error
        if error.code() in (KafkaError._ALL_BROKERS_DOWN, KafkaError._FATAL):
            self._down_since_s = self._down_since_s or time.monotonic()

    def clear(self) -> None:
        """Forget all errors."""
        self._errors.clear()
        self._down_since_s = None
