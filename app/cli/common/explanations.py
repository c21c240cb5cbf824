"""What states and reasons mean to a person, and what to do about them."""

from typing import NamedTuple


class Explanation(NamedTuple):
    """What happened, and what usually helps; "" where there is nothing to do."""

    meaning: str
    advice: str = ""


_STATE_EXPLANATIONS = {
    "pending": Explanation("it is stored, and waits for a worker or for a sink", "wait; workers try again"),
    "settled": Explanation("it is done with: its sinks have all that they can hold"),
    "unrouted": Explanation("no route takes it", "add a route for it, then replay it"),
    "dead": Explanation(
        "its sinks will not get it as things are", "mend what the reason names, then replay it"
    ),
    "quarantined": Explanation("Truto signed it, but it cannot be read", "look at its body, then discard it"),
    "refused": Explanation("a policy of yours refused its run, and Truto was told to stop"),
    "late": Explanation("it came after its run had been stopped", "replay it, or discard it"),
    "discarded": Explanation("an operator gave it up"),
}
_REPLAY_RECORDS = "then dead replay --records"
_FIX_ROUTE = "name another `table` in its route, then replay it"
_REASON_EXPLANATIONS = {
    "no_route": _STATE_EXPLANATIONS["unrouted"],
    "after_stop": _STATE_EXPLANATIONS["late"],
    "sink_unavailable": Explanation(
        "a sink did not take it", "see to the sink; if it is dead, replay it then"
    ),
    "sink_set_up": Explanation("a sink's tables or rights do not fit", "mend the sink, then replay it"),
    "table_reserved": Explanation("its table would be one of the receiver's own", _FIX_ROUTE),
    "table_taken": Explanation("its table was made by somebody else", _FIX_ROUTE),
    "table_collision": Explanation("its table holds another resource", _FIX_ROUTE),
    "worker_lost": Explanation(
        "its workers never came back from it", "give workers more memory, then replay it"
    ),
    "internal_error": Explanation(
        "a fault of the receiver's own", "look for delivery.failed in the log; replay it when that is mended"
    ),
    "out_of_time": Explanation("it took too long to read or write", "see to its sinks, then replay it"),
    "empty_body": Explanation("its body is empty", "discard it"),
    "not_json": Explanation("it is no JSON", "look at it, then discard it"),
    "not_object": Explanation("it is JSON, but no object", "look at it, then discard it"),
    "no_event": Explanation("it names no event", "look at it, then discard it"),
    "name_too_long": Explanation("a name or an id in it is too long", "look at it, then discard it"),
    "no_records": Explanation("it is a batch without records", "look at it, then discard it"),
}
_RECORD_EXPLANATIONS = {
    "not_json": Explanation("they are no JSON"),
    "too_deep": Explanation("they are nested too deep"),
    "number_out_of_range": Explanation("a number in them is too large for any sink"),
    "not_a_number": Explanation("they hold NaN or Infinity, which JSON has not"),
    "not_object": Explanation(
        "they are no objects", 'set non_object = "wrap" in their route, then dead replay --records'
    ),
    "no_key": Explanation(
        "they have no key, and their route refuses such", "mend their route, then dead replay --records"
    ),
}


def explain_state(state: str, reason: str) -> Explanation:
    """Return what it means that a delivery is in a state for a reason."""
    if state in ("pending", "settled", "refused", "discarded"):
        return _STATE_EXPLANATIONS[state]
    return _REASON_EXPLANATIONS.get(reason) or _STATE_EXPLANATIONS[state]


def explain_dead_records(reason: str) -> Explanation:
    """Return what it means that single records are dead."""
    explanation = _RECORD_EXPLANATIONS.get(reason, Explanation("a sink cannot hold them"))
    return Explanation(
        explanation.meaning, explanation.advice or "look at them with `dead show`, then discard them"
    )
