"""Every error of this project, sorted by what can be done about it.

RapidBridgeError
 ├─ Rejected            answered to the sender with an HTTP status; nothing to repair here
 │   ├─ SignatureError      401: nobody who knows the secret sent these bytes
 │   ├─ BodyTooLarge        413: more than MAX_BODY_BYTES
 │   └─ BodyIncomplete      408: the sender stalled, hung up or framed the body wrongly
 ├─ Retriable           the same work will succeed later
 │   ├─ StoreUnavailable    the inbox cannot be reached
 │   ├─ QueueUnavailable    Redis cannot be reached
 │   ├─ OutOfTime           a job was stopped because it took too long
 │   ├─ Overloaded          too many large bodies at once
 │   ├─ ArchiveUnavailable  the folder that is to hold what is removed cannot be written
 │   ├─ SinkUnavailable     a sink cannot be reached, is busy or deadlocked
 │   ├─ TrutoUnavailable    Truto's API cannot be reached, is busy or fails
 │   └─ EndpointUnavailable who is to be told cannot be reached, is busy or fails
 ├─ Dead                will never succeed as it is: keep it, count it, show it
 │   ├─ BodyPruned          its body was removed: too old, or its account was erased
 │   ├─ UnreadableDelivery  signed, but not an event this code can read
 │   ├─ SinkRefused         a sink refuses the whole batch: table missing its columns, no permission, …
 │   └─ EndpointGone        who is to be told wants to be told nothing more
 ├─ TrutoRefused        Truto's API does not do what it was asked, and never will as it is
 └─ ConfigError         refuse to start; lists every complaint at once
"""

from collections.abc import Sequence
from typing import ClassVar


class RapidBridgeError(Exception):
    """Base of every error raised on purpose by this project."""


class RequestRejected(RapidBridgeError):
    """A request that is answered with `http_status` instead of being stored."""

    http_status: ClassVar[int]


class SignatureError(RequestRejected):
    """No, a malformed or a wrong signature, or a signed body outside the replay window."""

    http_status = 401


class BodyTooLarge(RequestRejected):
    """A body longer than MAX_BODY_BYTES, known from its header or found while reading."""

    http_status = 413


class BodyIncomplete(RequestRejected):
    """A body that did not arrive whole in time."""

    http_status = 408


class TransientError(RapidBridgeError):
    """A fault that passes: try again, after `retry_after_s` seconds where the other side named them."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(TransientError):
    """The database of the inbox cannot be reached or does not answer."""


class QueueUnavailable(TransientError):
    """Redis cannot be reached or refuses commands."""


class JobTimeout(TransientError):
    """A job took longer than it may: a sink or the store does not answer."""


class Overloaded(TransientError):
    """More large bodies come at once than there is memory for."""


class ArchiveUnavailable(TransientError):
    """The folder that is to hold what is removed cannot be read or written."""


class SinkUnavailable(TransientError):
    """A sink cannot be reached, is locked, or gave up a transaction to let another through."""


class TrutoUnavailable(TransientError):
    """Truto's API cannot be reached, asks for patience, or fails. is_undone: it certainly did nothing."""

    def __init__(
        self, message: str, *, was_not_processed: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.was_not_processed = was_not_processed


class SubscriberUnavailable(TransientError):
    """Who is to be told did not take it: no connection, no answer in time, or any but 2xx and 410."""


class PermanentError(RapidBridgeError):
    """Work that no retry will save. `reason` is a short, stable word for counting, such as "not_json"."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BodyPruned(PermanentError):
    """A delivery whose body was removed: it is older than what is kept, or its account was erased."""


class UnreadableDelivery(PermanentError):
    """A signed body that is not JSON, is no object, or names no event."""


class SinkRefused(PermanentError):
    """A sink that refuses a whole batch for a reason that lies in its set-up."""


class SubscriberGone(PermanentError):
    """Who is to be told answered 410."""


class TrutoRefused(RapidBridgeError):
    """Truto's API answered that it does not do this: wrong token, unknown id, a contradiction."""

    def __init__(self, http_status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status


class ConfigError(RapidBridgeError):
    """Settings or routes that cannot work. Each complaint says what is wrong, where, and what to do."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)
