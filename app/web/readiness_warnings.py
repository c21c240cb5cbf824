"""Warnings of /readyz about conditions that need an operator.

They do not make the receiver unready. Anyone may read them: they contain counts and no name from a delivery.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from app.checks.requests import evaluate_requests
from app.clock import utc_now
from app.config.current_config import CurrentConfig
from app.database.engine import Database
from app.errors import StoreUnavailable
from app.plural import format_count
from app.redis.spool import Spool
from app.store.delete_checks import HELD_FOR, DeleteChecks
from app.store.failures import FailureReasons, count_failure_reasons
from app.store.notification_outbox import NotificationOutbox
from app.store.notifications import Notifications
from app.store.response_counts import ResponseCount, ResponseCounts
from app.store.sink_status import SinkStatus, list_sink_statuses
from app.web.response_counter import ResponseCounter

_HINT = "run: rapidbridge doctor"
_HOURS = 1
# More are not counted: that would take long.
_MAX_FAILURES = 1000
# By the kind of their open notifications: a name, a noun and the problem. Other kinds are read directly.
CONDITIONS = {
    "webhook.unauthorized": ("signatures", "", "wrong signatures were refused, and none was accepted since"),
    "sink.failing": ("sinks", "sink", "{} failing"),
    "account.unknown": ("accounts", "webhook", "{} with deliveries that name no account"),
    "key.missing": ("keys", "resource", "{} with records that lack the key of its route"),
    "webhook.inactive": ("webhooks", "webhook", "{} deactivated by Truto"),
    "run.stalled": ("stalled_runs", "run", "{} stalled"),
    "task.failing": ("tasks", "step", "{} of background tasks failing for minutes"),
    "disk.low": ("disks", "disk", "{} almost full"),
}


def find_warnings(
    database: Database, spool: Spool, counter: ResponseCounter, config: CurrentConfig
) -> Mapping[str, str]:
    """Return the warnings by name; raises StoreUnavailable and QueueUnavailable.

    counter: of this process; written first, so that its newest responses are counted.
    """
    # While the counts cannot be written, the ones of before are shown.
    with suppress(StoreUnavailable):
        counter.write()
    now = utc_now()
    notifications = Notifications(database)
    warnings = _describe_conditions(notifications.count_open())
    if config.has_fault:
        warnings["routes_file"] = (
            "the routes file is missing or not valid, and the previous routes stay in use; "
            "run: rapidbridge routes check"
        )
    if paused := [status for status in list_sink_statuses(database) if status.paused_at]:
        warnings["paused_sinks"] = _describe_paused(paused)
    counts = ResponseCounts(database).list_since(now - timedelta(hours=_HOURS))
    warnings |= _describe_requests(counts)
    failures = count_failure_reasons(database, limit=_MAX_FAILURES)
    if failures.groups:
        warnings["failed_deliveries"] = _describe_failures(failures)
    if number := notifications.count_since("run.incomplete", now - timedelta(days=1)):
        verb = "is" if number == 1 else "are"
        warnings["incomplete_runs"] = (
            f"{format_count(number, 'run')} of the last day {verb} incomplete; run: rapidbridge runs list"
        )
    if (held := DeleteChecks(database).count_held(since=now - HELD_FOR)).total:
        warnings["held_deletes"] = (
            f"{held.total.format('delete check')} held back, {held.approvable:,} until an approval; "
            "run: rapidbridge deletes list --held"
        )
    if unsent := NotificationOutbox(database).find_unsent(now=now):
        shown = format_count(sum(group.notifications for group in unsent), "notification")
        warnings["notifications"] = f"{shown} not accepted by the subscriber; {_HINT}"
    if unreadable := spool.count_unreadable():
        warnings["unreadable"] = f"{unreadable:,} unreadable in the spool; {_HINT}"
    return warnings


def _describe_requests(counts: Sequence[ResponseCount]) -> Mapping[str, str]:
    problems: dict[str, list[str]] = {}
    for result in evaluate_requests(counts, hours=_HOURS):
        if result.level != "ok":
            problems.setdefault(result.check, []).append(result.message)
    return {check: f"{'; '.join(messages)}; {_HINT}" for check, messages in problems.items()}


def _describe_conditions(numbers: Mapping[str, int]) -> dict[str, str]:
    return {
        name: f"{problem.format(format_count(numbers[kind], noun))}; {_HINT}"
        for kind, (name, noun, problem) in CONDITIONS.items()
        if kind in numbers
    }


def _describe_paused(statuses: Sequence[SinkStatus]) -> str:
    shown = ", ".join(
        f"sink {status.sink} paused, {status.held.format('delivery')} held" for status in statuses
    )
    return f"{shown}; run: rapidbridge sinks list"


def _describe_failures(failures: FailureReasons) -> str:
    shown = ", ".join(f"{failure.deliveries:,} {failure.reason}" for failure in failures.groups)
    return f"{failures.total.format('failed delivery')}: {shown}; run: rapidbridge dead list"
