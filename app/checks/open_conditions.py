"""Open conditions with the way to act, for the overview page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.database.engine import Database
from app.store.notifications import Notification, Notifications

_EXAMPLES = 5
_MAX_DETAIL_CHARS = 300
# The members of a payload that say why, and contain nothing of a record.
_DETAILS = ("message", "error", "reason", "key")


@dataclass(frozen=True, slots=True)
class Advice:
    """A condition in words, and the next step. path: of the page that shows it; "" for none."""

    condition: str
    action: str
    path: str = ""


# By the kind of a notification that stays open.
ADVICE: Mapping[str, Advice] = {
    "webhook.unauthorized": Advice(
        "Requests with a wrong signature are refused",
        "Compare TRUTO_WEBHOOK_SECRET with the secret at Truto. For the causes, run: rapidbridge doctor",
    ),
    "webhook.rejected": Advice(
        "Requests are not stored",
        "Truto drops a page after three retries. For the causes, run: rapidbridge doctor",
        "/runs?verdict=incomplete",
    ),
    "webhook.inactive": Advice(
        "Truto has switched a webhook off", "Switch it on again: rapidbridge webhook reactivate"
    ),
    "account.unknown": Advice(
        "Deliveries name no account", "Replay them once their account is known.", "/failed?reason=no_account"
    ),
    "key.missing": Advice(
        "Records lack the key of their route", "Correct `key` in the routes file.", "/routes"
    ),
    "run.stalled": Advice(
        "Runs have sent nothing for a while", "Look at the run, and stop or repeat it.", "/runs?verdict=open"
    ),
    "sink.failing": Advice("A sink fails", "Repair it; its deliveries are kept and tried again.", "/sinks"),
    "delivery.failed": Advice(
        "Deliveries have failed", "Correct the cause, then replay or discard them.", "/failed"
    ),
    "delivery.delayed": Advice(
        "A delivery has waited for 15 minutes",
        "Start more workers (WORKER_CONCURRENCY), and read their log: rapidbridge worker",
        "/deliveries?state=pending",
    ),
    "worker.outdated": Advice(
        "A worker has another release or other routes", "Restart the workers: rapidbridge worker"
    ),
    "workers.missing": Advice("No worker is running", "Start one: rapidbridge worker"),
    "task.failing": Advice(
        "A background task fails", "Repair the cause; the newest error is in the log of: rapidbridge worker"
    ),
    "spool.in_use": Advice(
        "Deliveries wait in Redis for the database",
        "Repair the database. For its state, run: rapidbridge doctor",
    ),
    "spool.unreadable": Advice(
        "Entries of the spool cannot be read",
        "Check TRUTO_WEBHOOK_SECRET of the workers. For the entries, run: rapidbridge doctor",
    ),
    "disk.low": Advice("A disk is almost full", "Free space on it, or run: rapidbridge prune"),
}
_OTHER = Advice("A condition is open", "For its cause, run: rapidbridge doctor")


@dataclass(frozen=True, slots=True)
class OpenCondition:
    """The open notifications of one kind. examples: the oldest ones, each as its subject and a detail."""

    kind: str
    number: int
    since: datetime
    advice: Advice
    examples: Sequence[tuple[str, str]]


def list_open_conditions(database: Database, numbers: Mapping[str, int]) -> list[OpenCondition]:
    """Return the open conditions, the oldest first; raises StoreUnavailable. numbers: by kind."""
    notifications = Notifications(database)
    conditions = []
    for kind, number in numbers.items():
        if oldest := notifications.list_open(kind, limit=_EXAMPLES):
            examples = [(notification.subject, _find_detail(notification)) for notification in oldest]
            advice = ADVICE.get(kind, _OTHER)
            conditions.append(OpenCondition(kind, number, oldest[0].occurred_at, advice, examples))
    return sorted(conditions, key=lambda condition: condition.since)


def _find_detail(notification: Notification) -> str:
    details = (notification.payload.get(name) for name in _DETAILS)
    return next((text[:_MAX_DETAIL_CHARS] for text in details if isinstance(text, str)), "")
