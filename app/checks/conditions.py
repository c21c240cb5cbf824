"""Checks of failures, runs, tasks and notifications in the store."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from app.checks.check_result import CheckResult, fail, ok, warn
from app.database.engine import Database
from app.plural import format_count
from app.runs.delete_checks import advise_on_check, explain_check
from app.sinks.base import REASON_PATTERN
from app.store.bounded_count import COUNT_LIMIT, BoundedCount
from app.store.delete_checks import HELD_FOR, DeleteCheck, DeleteChecks, HeldDeleteChecks
from app.store.failures import FailureReasons, count_failure_reasons
from app.store.notification_outbox import NotificationOutbox, UnsentNotifications
from app.store.notifications import Notification, Notifications
from app.store.reasons import Reason

_COMPONENT = "store"
_MAX_DELETES = 3


def check_conditions(database: Database, *, now: datetime) -> Iterator[CheckResult]:
    """Yield the results for a store with its tables; raises StoreUnavailable."""
    yield evaluate_failures(count_failure_reasons(database, limit=COUNT_LIMIT))
    notifications = Notifications(database)
    yield evaluate_runs(
        incomplete=notifications.count_since("run.incomplete", now - timedelta(days=1)),
        stalled=len(notifications.list_open("run.stalled")),
    )
    yield from evaluate_deletes(*_read_held_deletes(database, now=now))
    yield from map(evaluate_task, notifications.list_open("task.failing"))
    yield from map(evaluate_unsent, NotificationOutbox(database).find_unsent(now=now))


def evaluate_failures(failures: FailureReasons) -> CheckResult:
    """Return the result for the failed deliveries, other than those without an account."""
    # These have a check of their own.
    others = [failure for failure in failures.groups if failure.reason != Reason.NO_ACCOUNT]
    if not others:
        other = "other " if failures.groups else ""
        return ok(_COMPONENT, "failed", f"no {other}delivery has failed")
    number = min(sum(failure.deliveries for failure in others), failures.total.number)
    total = BoundedCount(number, is_exact=failures.total.is_exact)
    reasons = ", ".join(f"{failure.deliveries:,} {keep_code(failure.reason)}" for failure in others)
    message = f"{total.format('failed delivery')}: {reasons}"
    return warn(_COMPONENT, "failed", message, "They are kept. For the remedies, run: rapidbridge dead list")


def evaluate_runs(*, incomplete: int, stalled: int) -> CheckResult:
    """Return the result for the runs of the last day that are incomplete, and for stalled runs."""
    message = f"{format_count(incomplete, 'incomplete run')} in the last day, {stalled:,} stalled"
    if not incomplete and not stalled:
        return ok(_COMPONENT, "runs", message)
    return warn(_COMPONENT, "runs", message, "For the gaps and their causes, run: rapidbridge runs list")


def _read_held_deletes(
    database: Database, *, now: datetime
) -> tuple[HeldDeleteChecks, Sequence[DeleteCheck]]:
    checks = DeleteChecks(database)
    held = checks.count_held(since=now - HELD_FOR)
    newest = checks.list_held(limit=_MAX_DELETES, since=now - HELD_FOR) if held.total else []
    return held, newest


def evaluate_deletes(held: HeldDeleteChecks, newest: Sequence[DeleteCheck]) -> Iterator[CheckResult]:
    """Yield the results for rows that runs of the last week did not see and that are not marked."""
    if not held.total:
        yield ok(_COMPONENT, "deletes", "no delete check of the last week is held back")
    for check in newest:
        message = (
            f"{check.resource} in sink {check.sink}: rows that run {check.sync_job_run_id} did not see are "
            f"not marked as deleted: {explain_check(check)}"
        )
        advice = advise_on_check(check)
        yield warn(_COMPONENT, "deletes", message, f"{advice[:1].upper()}{advice[1:]}")
    if held.total.as_number > len(newest):
        message = f"{held.total.format('delete check')} held back in the last week"
        yield warn(_COMPONENT, "deletes", message, "To list them, run: rapidbridge deletes list --held")


def evaluate_task(notification: Notification) -> CheckResult:
    """Return the result for a step of a background task that fails."""
    payload = notification.payload
    message = f"{payload.get('task')} has failed for minutes: {payload.get('error')}"
    advice = "Repair the cause; for the newest error, read the log of: rapidbridge worker"
    return fail(_COMPONENT, "tasks", message, advice)


def evaluate_unsent(unsent: UnsentNotifications) -> CheckResult:
    """Return the result for a subscriber that has not accepted notifications."""
    number = format_count(unsent.notifications, "notification")
    message = f"{number} not accepted by {unsent.subscriber}: {unsent.message or 'no attempt was made'}"
    advice = (
        "Correct its [[notify]] table in the routes file and restart the workers: rapidbridge worker. "
        "Notifications for a subscriber that was removed stay pending."
    )
    return warn(_COMPONENT, "notifications", message, advice)


def keep_code(reason: str) -> str:
    """Return a reason if it is a code; other text may contain a part of a record."""
    return reason if not reason or REASON_PATTERN.fullmatch(reason) else "(text)"
