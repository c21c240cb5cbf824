"""What states and reasons mean to a person, and what to do about them."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """What happened, and what usually helps; "" where there is nothing to do."""

    what: str
    remedy: str = ""


_STATES = {
    "pending": Meaning("it is stored, and waits for a worker or for a sink", "wait; workers try again"),
    "settled": Meaning("it is done with: its sinks have all that they can hold"),
    "unrouted": Meaning("no route takes it", "add a route for it, then replay it"),
    "dead": Meaning("its sinks will not get it as things are", "mend what the reason names, then replay it"),
    "quarantined": Meaning("Truto signed it, but it cannot be read", "look at its body, then discard it"),
    "refused": Meaning("a policy of yours refused its run, and Truto was told to stop"),
    "late": Meaning("it came after its run had been stopped", "replay it, or discard it"),
    "discarded": Meaning("an operator gave it up"),
}
_THEN_RECORDS = "then dead replay --records"
_MEND_ROUTE = "name another `table` in its route, then replay it"
_REASONS = {
    "no_route": _STATES["unrouted"],
    "after_stop": _STATES["late"],
    "sink_unavailable": Meaning("a sink did not take it", "see to the sink; if it is dead, replay it then"),
    "sink_set_up": Meaning("a sink's tables or rights do not fit", "mend the sink, then replay it"),
    "table_reserved": Meaning("its table would be one of the receiver's own", _MEND_ROUTE),
    "table_taken": Meaning("its table was made by somebody else", _MEND_ROUTE),
    "table_collision": Meaning("its table holds another resource", _MEND_ROUTE),
    "worker_lost": Meaning("its workers never came back from it", "give workers more memory, then replay it"),
    "internal_error": Meaning(
        "a fault of the receiver's own", "look for delivery.failed in the log; replay it when that is mended"
    ),
    "out_of_time": Meaning("it took too long to read or write", "see to its sinks, then replay it"),
    "empty_body": Meaning("its body is empty", "discard it"),
    "not_json": Meaning("it is no JSON", "look at it, then discard it"),
    "not_object": Meaning("it is JSON, but no object", "look at it, then discard it"),
    "no_event": Meaning("it names no event", "look at it, then discard it"),
    "name_too_long": Meaning("a name or an id in it is too long", "look at it, then discard it"),
    "no_records": Meaning("it is a batch without records", "look at it, then discard it"),
}
_OF_RECORDS = {
    "not_json": Meaning("they are no JSON"),
    "too_deep": Meaning("they are nested too deep"),
    "number_out_of_range": Meaning("a number in them is too large for any sink"),
    "not_a_number": Meaning("they hold NaN or Infinity, which JSON has not"),
    "not_object": Meaning(
        "they are no objects", 'set non_object = "wrap" in their route, then dead replay --records'
    ),
    "no_key": Meaning(
        "they have no key, and their route refuses such", "mend their route, then dead replay --records"
    ),
}


def meaning_of(state: str, reason: str) -> Meaning:
    """Return what it means that a delivery is in a state for a reason."""
    if state in ("pending", "settled", "refused", "discarded"):
        return _STATES[state]
    return _REASONS.get(reason) or _STATES[state]


def meaning_of_records(reason: str) -> Meaning:
    """Return what it means that single records are dead."""
    known = _OF_RECORDS.get(reason, Meaning("a sink cannot hold them"))
    return Meaning(known.what, known.remedy or "look at them with `dead show`, then discard them")
