"""Checks of the requests that were not stored."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from app.checks.check_result import CheckResult, fail, ok, warn
from app.clock import utc_now
from app.config.load import Config
from app.database.inspection import missing_file
from app.errors import SignatureFault, StoreUnavailable
from app.plural import format_count
from app.store.response_counts import STORED, ResponseCount, ResponseCounts, find_last_stored
from app.store.store_database import open_store

_COMPONENT = "requests"
_PERIOD_H = 24
_LOCK_TIMEOUT_S = 3.0
# Truto repeats a page three times.
_MIN_UNSIGNED = 4
_FIND_GAPS = "Truto drops a page after three retries; to find missing records, run: rapidbridge runs list"
_SIGNATURE_ADVICE = {
    SignatureFault.WRONG: (
        "If Truto sent them, set TRUTO_WEBHOOK_SECRET to the secret that Truto showed when the webhook was "
        "created (several: separated by commas), and restart. If the secret is lost, create another webhook: "
        "rapidbridge webhook create --url https://HOST/webhooks/truto --env-file .env"
    ),
    SignatureFault.OTHER_WEBHOOK: (
        "Correct the webhook id before the = in TRUTO_WEBHOOK_SECRET, or the webhook_id of the sync job. To "
        "see the webhooks, run: rapidbridge webhook show"
    ),
    SignatureFault.OUTSIDE_WINDOW: (
        "Check the clock of the receiver's machine (timedatectl), or raise REPLAY_WINDOW_S. The requests may "
        "also be repeated by somebody else than Truto."
    ),
}
_LOSSES = {
    ("too_large", ""): (
        "were larger than MAX_BODY_BYTES",
        "If Truto sent them, set a larger MAX_BODY_BYTES, and restart the web process.",
    ),
    ("incomplete", ""): (
        "stalled or ended too early",
        "If Truto sent them, check the proxy or tunnel in front of the receiver.",
    ),
    ("unavailable", ""): (
        "were answered 503: neither the database nor Redis could store them",
        _FIND_GAPS,
    ),
    ("unavailable", "overloaded"): (
        "were answered 503: no memory was free for a large body",
        f"Start more web processes (WEB_CONCURRENCY). {_FIND_GAPS}",
    ),
    ("failed", ""): (
        "were answered 500: the receiver failed",
        "Find request.failed in the log of the web process, and report it as a bug.",
    ),
}


def check_requests(config: Config) -> Iterator[CheckResult]:
    """Check the requests of the last day that were not stored.

    An unreachable database yields nothing: its own check reports it.
    """
    settings = config.settings
    if missing_file(settings.database_url):
        return
    database = open_store(settings, lock_timeout_s=_LOCK_TIMEOUT_S)
    try:
        counts = ResponseCounts(database).list_since(utc_now() - timedelta(hours=_PERIOD_H))
    except StoreUnavailable:
        return
    finally:
        database.close()
    yield from evaluate_requests(counts, hours=_PERIOD_H)
    yield from evaluate_unsigned(counts)


def evaluate_requests(counts: Sequence[ResponseCount], *, hours: int) -> Iterator[CheckResult]:
    """Yield the results for counts of the last hours; messages and advice contain nothing of a request."""
    period = f"in the last {hours} hours" if hours > 1 else "in the last hour"
    yield from _evaluate_signatures(counts, period)
    losses = [count for count in counts if (count.status, count.cause) in _LOSSES]
    for count in losses:
        problem, advice = _LOSSES[count.status, count.cause]
        message = f"{format_count(count.number, 'request')} {period} {problem}"
        yield warn(_COMPONENT, count.status, message, advice)
    stored = sum(count.number for count in counts if count.status in STORED)
    if not losses:
        yield ok(_COMPONENT, "stored", f"{format_count(stored, 'request')} stored {period}")


def evaluate_unsigned(counts: Sequence[ResponseCount]) -> Iterator[CheckResult]:
    """Yield a warning if all requests of the last day lacked a well-formed signature."""
    unsigned = sum(count.number for count in counts if count.status == "unauthorized")
    if unsigned < _MIN_UNSIGNED or any(
        count.status in STORED or count.is_alarming_refusal for count in counts
    ):
        return
    message = f"none of {format_count(unsigned, 'request')} in the last {_PERIOD_H} hours had a signature"
    advice = (
        "If Truto sent them, a proxy removes or changes the header X-Truto-Signature. Find "
        "delivery.unauthorized in the web process's log, or run in its place: rapidbridge webhook listen"
    )
    yield warn(_COMPONENT, "unsigned", message, advice)


def _evaluate_signatures(counts: Sequence[ResponseCount], period: str) -> Iterator[CheckResult]:
    refused = [count for count in counts if count.is_alarming_refusal]
    last_stored_at = find_last_stored(counts)
    for count in refused:
        message = f"{format_count(count.number, 'request')} {period} refused with 401: {count.meaning}"
        advice = _SIGNATURE_ADVICE[SignatureFault(count.cause)]
        if last_stored_at is None or last_stored_at < count.last_at:
            yield fail(_COMPONENT, "signatures", f"{message}; no request was accepted since", advice)
        else:
            yield warn(_COMPONENT, "signatures", f"{message}; others were accepted since", advice)
    if not refused:
        unsigned = sum(count.number for count in counts if count.status == "unauthorized")
        message = f"no wrong signature {period}; {format_count(unsigned, 'request')} without a signature"
        yield ok(_COMPONENT, "signatures", message)
