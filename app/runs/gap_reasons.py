"""Explanations of the gaps of a run, for people."""

from app.runs.reconciliation import GapReason

_EXPLANATIONS = {
    "given_up": "missing: Truto dropped their pages after all retries",
    "dead": "dead: sinks reject them; see `rapidbridge dead list`",
    "discarded": "discarded by an operator; kept in the inbox",
    "unrouted": "unrouted: no route matches them; kept in the inbox",
    "late": "late: received after the stop; kept (LATE_RECORDS=keep)",
    "no_account": "not written: their account is unknown; see `rapidbridge dead list`",
    "quarantined": "missing: their page is unreadable; kept in the inbox",
    "stopped": "missing: the run was stopped before they were sent",
    "refused": "missing: the run was refused",
    "not_sent": "not sent: the run's events_to_send leaves out records",
    "without_run": "not in this run: as many arrived in batches that name no run",
    "held": "held: a sink is paused or fails, and gets them afterwards; see `rapidbridge sinks list`",
    "unexplained": "missing: no reason in the inbox or in Truto's log",
}


def explain_gap(gap: GapReason) -> str:
    """Return the number of records that a gap keeps out of the sinks, and the reason."""
    number = "an unknown number" if gap.records is None else f"{gap.records:,}"
    return f"{number} {_EXPLANATIONS[gap.code]}"
