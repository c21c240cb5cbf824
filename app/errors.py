"""Every error of this project, sorted by the reaction to it.

RapidBridgeError
 ├─ RequestRejected            answer the sender with `http_status`; store nothing
 │   ├─ SignatureError           401: the signature is missing, malformed, wrong or outside the replay window
 │   ├─ BodyTooLarge             413: the body is larger than MAX_BODY_BYTES
 │   └─ BodyIncomplete           408: the sender stalled, disconnected or framed the body wrongly
 ├─ TransientError             retry later, unchanged
 │   ├─ StoreUnavailable         the inbox's database cannot be reached
 │   │   └─ EncryptionKeyMissing   stored data is encrypted with a key that this process does not have
 │   ├─ QueueUnavailable         Redis cannot be reached
 │   ├─ NamespaceShared          another receiver's workers use the same keys in Redis
 │   ├─ SecretMissing            the spool cannot be verified without TRUTO_WEBHOOK_SECRET
 │   ├─ JobTimeout               a job ran longer than its limit
 │   │   └─ WorkerStopping         a load was interrupted because its worker has to end
 │   ├─ Overloaded               too many large bodies at once
 │   ├─ ArchiveUnavailable       the archive folder cannot be read or written
 │   ├─ SinkUnavailable          a sink cannot be reached, is busy or reported a deadlock
 │   │   ├─ SinkTimeout            a load took longer than its limit: a smaller one may not
 │   │   └─ SinkRefused            a sink rejects every batch until a person corrects it: a column, a right, …
 │   ├─ RoutesRefused            the changed routes file is not valid: the process keeps the routes it has
 │   ├─ TrutoUnavailable         Truto's API cannot be reached, is busy or fails
 │   └─ SubscriberUnavailable    a notification's subscriber cannot be reached, is busy or fails
 ├─ PermanentError             do not retry: keep it, count it, show it
 │   ├─ BodyPruned               the body was deleted by retention or by an erasure
 │   ├─ UnreadableDelivery       the body is signed, but is no event this code can read
 │   └─ SubscriberGone           a notification's subscriber answered 410: send it nothing more
 ├─ OperationRefused           a replay or discard cannot start; the message says what to do first
 ├─ TrutoRefused               Truto's API rejects the request; the same request will fail again
 └─ ConfigError                refuse to start; `problems` lists all invalid settings and routes
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar


class RapidBridgeError(Exception):
    """Base class of every error that this project raises on purpose."""


class RequestRejected(RapidBridgeError):
    """A request to answer with `http_status` instead of storing it."""

    http_status: ClassVar[int]


class SignatureFault(StrEnum):
    """The kind of a SignatureError. Values are stored."""

    MISSING = "missing"
    MALFORMED = "malformed"
    WRONG = "wrong"
    OTHER_WEBHOOK = "other_webhook"
    OUTSIDE_WINDOW = "outside_window"


class SignatureError(RequestRejected):
    """A missing, malformed or wrong signature, or a signed body outside the replay window."""

    http_status = 401

    def __init__(self, message: str, fault: SignatureFault = SignatureFault.MALFORMED) -> None:
        super().__init__(message)
        self.fault = fault


class BodyTooLarge(RequestRejected):
    """A body larger than MAX_BODY_BYTES, announced or read, or with more chunks than its bytes justify."""

    http_status = 413


class BodyIncomplete(RequestRejected):
    """A body that did not arrive completely in time."""

    http_status = 408


class TransientError(RapidBridgeError):
    """A temporary failure. retry_after_s: the wait that the other side requested; None if it named none."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(TransientError):
    """The database of the inbox cannot be reached or does not answer."""


class EncryptionKeyMissing(StoreUnavailable):
    """Stored data is encrypted with a key that is not in ENCRYPTION_KEYS."""


class QueueUnavailable(TransientError):
    """Redis cannot be reached or refuses commands."""


class NamespaceShared(TransientError):
    """Workers of another database use this receiver's keys in Redis."""


class SecretMissing(TransientError):
    """This process has no secret to verify spooled deliveries with."""


class JobTimeout(TransientError):
    """A job ran longer than its limit, usually because a sink or the store does not answer."""


class WorkerStopping(JobTimeout):
    """A job was interrupted because its worker has to end; another worker begins it again."""


class Overloaded(TransientError):
    """The large bodies in progress use up the memory budget."""


class RoutesRefused(TransientError):
    """The routes file has changed and is not valid; a person corrects it."""


class ArchiveUnavailable(TransientError):
    """The folder that archives pruned bodies cannot be read or written."""


class SinkUnavailable(TransientError):
    """A sink cannot be reached, is locked, or rolled back a transaction because of a deadlock.

    is_batch_timeout: the sink answered that this batch took too long. It may accept others, and this one in
    smaller batches.
    """

    def __init__(
        self, message: str, *, retry_after_s: float | None = None, is_batch_timeout: bool = False
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.is_batch_timeout = is_batch_timeout


class SinkTimeout(SinkUnavailable):
    """A load took longer than its limit: the sink does not answer, or the load is too large."""


class SinkRefused(SinkUnavailable):
    """A sink that rejects every batch until a person corrects its table, its rights, its disk or its route.

    reason: a stable code for counting.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TrutoUnavailable(TransientError):
    """Truto's API cannot be reached, limits the rate, or fails.

    was_not_processed: Truto certainly did not act on the request, so repeating it is safe for any method.
    """

    def __init__(
        self, message: str, *, was_not_processed: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.was_not_processed = was_not_processed


class SubscriberUnavailable(TransientError):
    """A subscriber could not be reached, timed out, or answered with a status other than 2xx and 410."""


class PermanentError(RapidBridgeError):
    """Work that fails the same way on every retry. reason: a stable code for counting, such as "not_json"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BodyPruned(PermanentError):
    """A delivery whose body was removed by retention, or by the erasure of its integrated account."""


class UnreadableDelivery(PermanentError):
    """A signed body that is not JSON, is not an object, or has no event name."""


class SubscriberGone(PermanentError):
    """A subscriber answered 410: it wants no more notifications."""


class OperationRefused(RapidBridgeError):
    """An operation that cannot start now: workers have other routes, or too many are unfinished."""


class TrutoRefused(RapidBridgeError):
    """Truto's API rejected a request: invalid token, unknown id, or a conflict. http_status: its answer."""

    def __init__(self, http_status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status


class ConfigError(RapidBridgeError):
    """Invalid settings or routes. problems: one message for each, with its place and the next step."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
