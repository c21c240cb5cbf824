"""Warnings of /readyz: conditions that need an operator, and do not make the receiver unready.

Anyone may read them: they contain counts and no name from a delivery.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta

from app.checks.requests import evaluate_requests
from app.clock import utc_now
from app.database.engine import Database
from app.errors import StoreUnavailable
from app.redis.spool import Spool
from app.store.response_counts import ResponseCounts
from app.web.response_counter import ResponseCounter

_HINT = "run: rapidbridge doctor"
_HOURS = 1


def find_warnings(database: Database, spool: Spool, counter: ResponseCounter) -> Mapping[str, str]:
    """Return the warnings by name; raises StoreUnavailable and QueueUnavailable.

    counter: of this process; written first, so that its newest responses are counted.
    """
    # While the counts cannot be written, the ones of before are shown.
    with suppress(StoreUnavailable):
        counter.write()
    counts = ResponseCounts(database).list_since(utc_now() - timedelta(hours=_HOURS))
    warnings = {
        result.check: f"{result.message}; {_HINT}"
        for result in evaluate_requests(counts, hours=_HOURS)
        if result.level != "ok"
    }
    if unreadable := spool.count_unreadable():
        warnings["unreadable"] = (
            f"{unreadable:,} entries of the spool could not be moved to the store; {_HINT}"
        )
    return warnings
