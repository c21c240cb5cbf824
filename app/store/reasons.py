"""Reason codes of deliveries and records: category, meaning and advice.

The advice names actions and no commands, because web pages show it as well as the command line.

Sinks may add codes of their own, and a refused run has a sentence as its reason: reasons are stored as text,
and every function here accepts any text.
"""

from enum import StrEnum
from typing import Literal, NamedTuple

from app.store.models import DeliveryState

# The data that Truto sent, a sink or its route, or the receiver and its machine.
Category = Literal["data", "sink", "system"]
# The "state" of dead records in a FailureGroup.
RECORD = "record"

_REPLAY = "then replay the delivery"
_REPLAY_RECORDS = "then replay the dead records"
_FIX_TABLE = f"set another `table` in its route, {_REPLAY}"
_CORRECT_SINK = "correct the sink or its route as the outcome says; workers then write the delivery"
_DISCARD_BODY = "inspect the body, then discard the delivery"
_DISCARD_RECORDS = "inspect the records, then discard them"


class Explanation(NamedTuple):
    """The meaning of a state or reason, and the usual next step; "" if nothing needs to be done."""

    meaning: str
    advice: str = ""


class Reason(StrEnum):
    """The reason codes that the receiver itself writes."""

    category: Category
    explanation: Explanation

    def __new__(cls, code: str, category: Category, meaning: str, advice: str = "") -> "Reason":
        """Make a member that equals its code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.category = category
        member.explanation = Explanation(meaning, advice)
        return member

    # Unreadable bodies: quarantined.
    EMPTY_BODY = "empty_body", "data", "the body is empty", "discard the delivery"
    NOT_JSON = "not_json", "data", "the body is not valid JSON", _DISCARD_BODY
    NOT_OBJECT = "not_object", "data", "the body is JSON, but not an object", _DISCARD_BODY
    NO_EVENT = "no_event", "data", "the body names no event", _DISCARD_BODY
    NAME_TOO_LONG = "name_too_long", "data", "a name or an id in the body is too long", _DISCARD_BODY
    NO_RESOURCE = "no_resource", "data", "the body is a batch that names no resource", _DISCARD_BODY
    NO_RECORDS = "no_records", "data", "the body is a batch without records", _DISCARD_BODY
    # Records that no sink can store: dead records.
    TOO_DEEP = "too_deep", "data", "the records are nested too deeply", _DISCARD_RECORDS
    NUMBER_OUT_OF_RANGE = (
        "number_out_of_range",
        "data",
        "a number in the records is too large for a sink",
        _DISCARD_RECORDS,
    )
    TOO_LARGE = (
        "too_large",
        "data",
        "a record is larger than a sink reads at once",
        f"raise the limit of the sink, {_REPLAY_RECORDS}",
    )
    NOT_A_NUMBER = "not_a_number", "data", "the records hold NaN or Infinity", _DISCARD_RECORDS
    NO_KEY = (
        "no_key",
        "data",
        "the records have no key, and their route rejects records without a key",
        f'set on_missing_key = "hash" in their route, {_REPLAY_RECORDS}',
    )
    FILTER_FAILED = (
        "filter_failed",
        "data",
        "the filter of their route fails for the records",
        f"correct `filter` in their route, {_REPLAY_RECORDS}",
    )
    TRANSFORM_FAILED = (
        "transform_failed",
        "data",
        "the transformation of their route fails for the records",
        f"correct `transform` in their route, {_REPLAY_RECORDS}",
    )
    # Deliveries that were not written.
    NO_ACCOUNT = (
        "no_account",
        "data",
        "neither the event, its run nor the routes file names the integrated account",
        f"name the account in the routes file, {_REPLAY}",
    )
    NO_ROUTE = "no_route", "data", "no route matches the delivery", f"add a route for it, {_REPLAY}"
    AFTER_STOP = (
        "after_stop",
        "data",
        "the delivery arrived after its run had been stopped",
        "replay the delivery, or discard it",
    )
    PRUNED = "pruned", "data", "the body was deleted before the delivery was written"
    ERASED = "erased", "data", "the data of its integrated account was erased"
    # Sinks that did not take a delivery.
    SINK_UNAVAILABLE = (
        "sink_unavailable",
        "sink",
        "a sink did not accept the delivery",
        "check the sink; if the delivery is dead, replay it afterwards",
    )
    SINK_PAUSED = (
        "sink_paused",
        "sink",
        "a person paused a sink, and the delivery is held",
        "resume the sink; workers then write the delivery",
    )
    SINK_RESUMED = (
        "sink_resumed",
        "sink",
        "a sink accepts deliveries again, and workers write the held ones",
    )
    SINK_SLOW = (
        "sink_slow",
        "sink",
        "a sink takes long for each delivery, and gets a part of the workers' time",
        "wait, make the sink faster, or start more workers",
    )
    IN_LOAD = (
        "in_load",
        "sink",
        "the delivery waits for the next load of a sink, which writes many deliveries together",
        "wait: the load begins at the size or the age that the sink sets",
    )
    BATCH_TIMEOUT = (
        "batch_timeout",
        "sink",
        "a sink took too long for the delivery, and accepts others",
        f"check the sink for locks, {_REPLAY}",
    )
    SINK_SET_UP = (
        "sink_set_up",
        "sink",
        "a sink rejects every delivery until its tables, its rights or its disk are corrected",
        f"correct the sink, {_REPLAY}",
    )
    TABLE_RESERVED = "table_reserved", "sink", "the table belongs to the receiver itself", _FIX_TABLE
    TABLE_TAKEN = "table_taken", "sink", "the table was created by another program", _FIX_TABLE
    TABLE_COLLISION = "table_collision", "sink", "the table holds another resource", _FIX_TABLE
    # Faults of the receiver or its machine.
    WORKER_LOST = (
        "worker_lost",
        "system",
        "every worker that processed the delivery died",
        f"give workers more memory, {_REPLAY}",
    )
    ENCRYPTION_KEY_MISSING = (
        "encryption_key_missing",
        "system",
        "the body is encrypted with a key that the workers do not have",
        "add the key to ENCRYPTION_KEYS again and restart the workers, " + _REPLAY,
    )
    INTERNAL_ERROR = (
        "internal_error",
        "system",
        "the receiver failed while processing the delivery",
        "find delivery.failed in the log; replay the delivery when the error is fixed",
    )
    WORKER_OUTDATED = (
        "worker_outdated",
        "system",
        "the workers do not all have the same routes and sinks, or not those of its replay",
        f"restart the workers, {_REPLAY}",
    )
    IN_PROGRESS = (
        "in_progress",
        "system",
        "a part of the delivery is written, and workers continue with the rest",
    )
    OUT_OF_TIME = (
        "out_of_time",
        "system",
        "the delivery took too long to read or to write",
        f"check its sinks, {_REPLAY}",
    )


# A sink rejects every delivery until a person corrects the sink or the routes file.
SET_UP_REASONS = (Reason.SINK_SET_UP, Reason.TABLE_RESERVED, Reason.TABLE_TAKEN, Reason.TABLE_COLLISION)
_REASONS: dict[str, Reason] = {reason.value: reason for reason in Reason}
_STATE_EXPLANATIONS = {
    DeliveryState.PENDING: Explanation(
        "the delivery is stored and waits for a worker or a sink", "wait: workers retry it"
    ),
    DeliveryState.SETTLED: Explanation("all of its sinks have the delivery, except for dead records"),
    DeliveryState.UNROUTED: Reason.NO_ROUTE.explanation,
    DeliveryState.DEAD: Explanation(
        "the delivery cannot be written to its sinks", f"fix the cause that the reason names, {_REPLAY}"
    ),
    DeliveryState.QUARANTINED: Explanation(
        "the delivery has a valid signature, but cannot be read or attributed", _DISCARD_BODY
    ),
    DeliveryState.REFUSED: Explanation(
        "one of your policies refused the run, and the receiver asked Truto to stop it"
    ),
    DeliveryState.LATE: Reason.AFTER_STOP.explanation,
    DeliveryState.DISCARDED: Explanation("an operator discarded the delivery"),
}
# In these states the reason says nothing about the next step.
_STATES_WITHOUT_REASON = (
    DeliveryState.PENDING,
    DeliveryState.SETTLED,
    DeliveryState.REFUSED,
    DeliveryState.DISCARDED,
)
# The same codes as for a whole body.
_RECORD_EXPLANATIONS = {
    Reason.NOT_JSON: Explanation("the records are not valid JSON", _DISCARD_RECORDS),
    Reason.NO_ACCOUNT: Explanation(
        "the records name no integrated account at the path of their route",
        f"correct `account` in the route, {_REPLAY_RECORDS}",
    ),
    Reason.NOT_OBJECT: Explanation(
        "the records are not objects", f'set on_non_object = "wrap" in their route, {_REPLAY_RECORDS}'
    ),
}


def explain(state: str, reason: str) -> Explanation:
    """Return the meaning of a state with its reason, and the next step.

    state: of a delivery, or RECORD for dead records. reason: any text.
    """
    reason_code = _REASONS.get(reason)
    if state == RECORD:
        if reason_code is None:
            return Explanation("a sink rejected the records", _DISCARD_RECORDS)
        return _RECORD_EXPLANATIONS.get(reason_code, reason_code.explanation)
    if reason_code in SET_UP_REASONS and state == DeliveryState.PENDING:
        return Explanation(reason_code.explanation.meaning, _CORRECT_SINK)
    if reason_code in (Reason.SINK_PAUSED, Reason.SINK_RESUMED, Reason.IN_LOAD):
        return reason_code.explanation
    if reason_code is None or state in _STATES_WITHOUT_REASON:
        return _STATE_EXPLANATIONS[DeliveryState(state)]
    return reason_code.explanation


def explain_reason(reason: str) -> str:
    """Return the meaning of a reason; the reason itself if a sink or a policy added it."""
    reason_code = _REASONS.get(reason)
    return reason_code.explanation.meaning if reason_code else reason


def reason_category(reason: str) -> Category:
    """Return the origin of a reason: the data, a sink, or the receiver."""
    if reason_code := _REASONS.get(reason):
        return reason_code.category
    return "sink" if reason.startswith(("sink_", "table_")) else "data"
