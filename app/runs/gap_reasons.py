"""Explanations of the gaps of a run, for people."""

from app.runs.reconciliation import GapReason

_EXPLANATIONS = {
    "given_up": "missing: Truto gave up sending their pages, because no attempt was answered 200",
    "dead": "dead: no sink can store them; they are kept in rapidbridge_dead_records",
    "discarded": "discarded by an operator; they are kept in the inbox",
    "unrouted": "unrouted: no route matches them; they are kept in the inbox",
    "late": "late: received after the run was stopped, and kept in the inbox (LATE_RECORDS=keep)",
    "quarantined": "missing: a page of them cannot be read; it is kept in the inbox",
    "stopped": "missing: the run was stopped before they were sent",
    "refused": "missing: the run was refused",
    "unexplained": "missing: neither the inbox nor Truto's log shows the reason",
}


def explain_gap(gap: GapReason) -> str:
    """Return the number of records that a gap keeps out of the sinks, and the reason."""
    number = "an unknown number" if gap.records is None else f"{gap.records:,}"
    return f"{number} {_EXPLANATIONS[gap.code]}"
