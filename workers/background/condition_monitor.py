"""Monitoring of conditions that need an operator."""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from app.checks.disk import evaluate_free_space, read_free_bytes
from app.checks.workers import find_mismatched_workers
from app.config.load import Config
from app.config.sinks import FilesSinkConfig, WarehouseSinkConfig
from app.database.engine import Database
from app.database.inspection import database_file
from app.logs import FaultLog
from app.redis.spool import Spool
from app.store.failures import find_failure_reasons
from app.store.notifications import Notification, Notifications
from app.store.pending import PendingDeliveries
from app.store.reasons import Reason
from app.store.response_counts import ResponseCounts, find_last_stored
from app.store.service_counts import count_pending
from app.store.worker_registry import WorkerRegistry
from workers.background.loop import PeriodicTask

UNAUTHORIZED = "webhook.unauthorized"
# Truto retries a page three times; a single forged request must not wake anybody.
_MIN_REFUSALS = 3
_RECENT = timedelta(minutes=10)
_REJECTED_STATUSES = ("too_large", "unavailable", "failed")
_FAILING_AFTER_S = 300.0
# As in /readyz.
_MAX_PENDING_AGE = timedelta(minutes=15)
# These need a scan of the failed deliveries, or change slowly.
_SLOW_INTERVAL = timedelta(minutes=1)
# The restart of a database, or of workers, is not worth a notification.
_SPOOLED_AFTER = _MISSING_AFTER = timedelta(minutes=1)
# Between the place and the machine of a disk, in a subject.
_ON_HOST = " on "
# A disk that stays near the limit must not be notified again and again.
_CLOSING_MARGIN = 1.2

log = structlog.get_logger()


class SpoolUse:
    """A time in which deliveries wait in the spool. waiting: now. deliveries: the largest number of them."""

    def __init__(self) -> None:
        self.since: datetime | None = None
        self.waiting = 0
        self.deliveries = 0
        self.is_long = False

    def observe(self, waiting: int, now: datetime) -> None:
        """Add the number of deliveries that wait now."""
        self.waiting = waiting
        if waiting:
            self.since = self.since or now
            self.deliveries = max(self.deliveries, waiting)
            self.is_long = now - self.since > _SPOOLED_AFTER


class ConditionMonitor:
    """Opens and closes the notifications of conditions. Methods raise StoreUnavailable.

    tasks: the background tasks of this process. started_at: of this process.
    """

    def __init__(
        self,
        database: Database,
        config: Config,
        spool: Spool,
        tasks: Sequence[PeriodicTask],
        *,
        started_at: datetime,
    ) -> None:
        self._database = database
        self._config = config
        self._spool = spool
        self._tasks = tasks
        self._started_at = started_at
        self._host = socket.gethostname()
        self._has_checked_disks = False
        self._notifications = Notifications(database)
        self._counts = ResponseCounts(database)
        self._failing_tasks: set[str] | None = None
        self._failures_due_at = started_at
        self._spool_use = SpoolUse()
        self._worker_seen_at = started_at
        self._open_conditions = FaultLog("conditions.open", "conditions.ended", logs_changes=True)

    def check_requests(self, *, now: datetime) -> None:
        """Check for refused signatures, and for requests that could not be stored."""
        self._update(UNAUTHORIZED, self._find_unauthorized, now)
        self._update("webhook.rejected", self._find_rejected, now)

    def check_failures(self, *, now: datetime) -> None:
        """Check for failed deliveries, by reason; at most once a minute."""
        if now >= self._failures_due_at:
            self._update("delivery.failed", self._find_failures, now)
            # Last: a failed check must be repeated.
            self._failures_due_at = now + _SLOW_INTERVAL

    def check_backlog(self, *, now: datetime) -> None:
        """Check for a delivery that has been pending for long."""
        self._update("delivery.delayed", self._find_delay, now)

    def check_spool(self, *, now: datetime) -> None:
        """Check for deliveries and unreadable entries in the spool; raises QueueUnavailable."""
        # Without the database, which is often the cause: the notification is stored once it is back.
        waiting = self._spool.count()
        self._spool_use.observe(waiting, now)
        self._update("spool.in_use", self._find_spool_use, now, may_close=lambda _: not waiting)
        if not waiting:
            self._spool_use = SpoolUse()
        self._update("spool.unreadable", self._find_unreadable, now)

    def check_workers(self, *, now: datetime) -> None:
        """Check for missing workers, and for those that have had another configuration for minutes."""
        self._update("workers.missing", self._find_missing_workers, now)
        self._update("worker.outdated", self._find_outdated_workers, now)

    def check_disks(self, *, now: datetime) -> None:
        """Check the free space of a SQLite store and of files sinks on this machine."""
        self._update("disk.low", self._find_low_disks, now, may_close=self._may_close_disk)
        self._has_checked_disks = True

    def check_tasks(self, *, now: datetime) -> None:
        """Check for background tasks that have failed for minutes, in this process.

        Notifications of an ended process are closed at the start of another one.
        """
        kind = "task.failing"
        failing = {
            f"{task.name} {step}": fault
            for task in self._tasks
            for step, fault in task.list_faults()
            if fault.lasts_s >= _FAILING_AFTER_S
        }
        open_subjects = {notification.subject for notification in self._notifications.list_open(kind)}
        for subject in failing.keys() - open_subjects:
            payload = {"task": subject, "error": failing[subject].error}
            self._open(Notification(kind, subject, now.isoformat(), now, payload))
        ours = open_subjects if self._failing_tasks is None else self._failing_tasks
        for subject in ours - failing.keys():
            self._close(kind, subject, now)
        self._failing_tasks = set(failing)

    def log_open(self) -> None:
        """Log the numbers of open notifications by kind, at growing intervals."""
        numbers = self._notifications.count_open()
        if numbers:
            shown = ", ".join(f"{number} {kind}" for kind, number in sorted(numbers.items()))
            self._open_conditions.add(shown, hint="run: rapidbridge doctor")
        else:
            self._open_conditions.end()

    def _find_unauthorized(self, now: datetime) -> Iterator[Notification]:
        """Yield the condition while requests with a wrong signature arrive, and until others are accepted."""
        recent = [count for count in self._counts.list_since(now - _RECENT) if count.is_alarming_refusal]
        number = sum(count.number for count in recent)
        known = self._counts.list_since(now - timedelta(days=7))
        stored_at = find_last_stored(known)
        is_open = bool(self._notifications.list_open(UNAUTHORIZED))
        refused_at = max((count.last_at for count in known if count.is_alarming_refusal), default=None)
        has_recovered = refused_at is None or (stored_at is not None and stored_at > refused_at)
        if number >= _MIN_REFUSALS or (is_open and (recent or not has_recovered)):
            yield _build(
                UNAUTHORIZED,
                "signature",
                now,
                requests=number,
                causes={str(count.cause): count.number for count in recent},
                last_accepted_at=stored_at.isoformat() if stored_at else None,
            )

    def _find_rejected(self, now: datetime) -> Iterator[Notification]:
        recent = self._counts.list_since(now - _RECENT)
        for status in _REJECTED_STATUSES:
            number = sum(count.number for count in recent if count.status == status)
            if number >= _MIN_REFUSALS:
                yield _build("webhook.rejected", status, now, status=status, requests=number)

    def _find_failures(self, now: datetime) -> Iterator[Notification]:
        for failure in find_failure_reasons(self._database):
            # Deliveries without an account have a notification of their own.
            if failure.reason != Reason.NO_ACCOUNT:
                since = failure.since.isoformat()
                payload = {"reason": failure.reason, "deliveries": failure.deliveries, "since": since}
                yield _build("delivery.failed", failure.reason, now, cause=since, **payload)

    def _find_delay(self, now: datetime) -> Iterator[Notification]:
        oldest = PendingDeliveries(self._database).find_oldest_received_at(now=now)
        if oldest is not None and now - oldest > _MAX_PENDING_AGE:
            since = oldest.isoformat()
            yield self._build_with_pending("delivery.delayed", "backlog", now, since)

    def _find_spool_use(self, now: datetime) -> Iterator[Notification]:
        use, kind = self._spool_use, "spool.in_use"
        if use.since is None or not use.is_long:
            return
        # Another monitor may have notified of the same outage, and seen its end first.
        is_new = not self._notifications.count_since(kind, use.since)
        if is_new or (use.waiting and self._notifications.list_open(kind)):
            since = use.since.isoformat()
            yield _build(kind, "spool", now, since=since, deliveries=use.deliveries)

    def _find_missing_workers(self, now: datetime) -> Iterator[Notification]:
        if WorkerRegistry(self._database).list_live(now=now):
            self._worker_seen_at = now
        elif now - self._worker_seen_at > _MISSING_AFTER:
            since = self._worker_seen_at.isoformat()
            yield self._build_with_pending("workers.missing", "workers", now, since)

    def _build_with_pending(self, kind: str, subject: str, now: datetime, since: str) -> Notification:
        pending = count_pending(self._database)
        payload = {"deliveries": pending.number, "is_exact": pending.is_exact}
        return Notification(kind, subject, now.isoformat(), now, {"since": since, **payload})

    def _find_unreadable(self, now: datetime) -> Iterator[Notification]:
        if unreadable := self._spool.count_unreadable():
            key = self._spool.unreadable_key
            yield _build("spool.unreadable", key, now, key=key, entries=unreadable)

    def _find_outdated_workers(self, now: datetime) -> Iterator[Notification]:
        registry, expected = WorkerRegistry(self._database), self._config.delivery_config
        for worker, differences in find_mismatched_workers(
            registry, expected, since=self._started_at, now=now
        ):
            # Once for each worker: the monitors of both configurations find the workers of the other one.
            cause = worker.started_at.isoformat()
            payload = {"worker": worker.name, "differences": list(differences)}
            yield _build("worker.outdated", worker.name, now, cause=cause, **payload)

    def _find_low_disks(self, now: datetime) -> Iterator[Notification]:
        open_subjects = {notification.subject for notification in self._notifications.list_open("disk.low")}
        for place, folder in self._list_folders():
            # Another machine may have a disk of its own in this place.
            subject = f"{place}{_ON_HOST}{self._host}"
            free_bytes = read_free_bytes(folder)
            margin = _CLOSING_MARGIN if subject in open_subjects else 1.0
            if evaluate_free_space(place, int(free_bytes / margin)).level != "ok":
                yield _build("disk.low", subject, now, place=place, host=self._host, free_bytes=free_bytes)

    def _may_close_disk(self, subject: str) -> bool:
        """Whether a disk is one of this process, or no running process has it."""
        place, _, host = subject.rpartition(_ON_HOST)
        if host != self._host:
            names = WorkerRegistry(self._database).list_names()
            return host not in {name.partition(":")[0] for name in names}
        # At the start, also the disks of an ended process; later, another one may have other sinks.
        return not self._has_checked_disks or place in dict(self._list_folders())

    def _list_folders(self) -> Iterator[tuple[str, Path]]:
        if path := database_file(self._config.settings.database_url):
            yield "store", path.parent
        for name, sink in self._config.routes.sinks.items():
            if isinstance(sink, FilesSinkConfig) and sink.is_local:
                yield f"sink {name}", sink.local_folder
            if isinstance(sink, WarehouseSinkConfig) and sink.local_file:
                yield f"sink {name}", sink.local_file.parent

    def _update(
        self,
        kind: str,
        find: Callable[[datetime], Iterable[Notification]],
        now: datetime,
        *,
        may_close: Callable[[str], bool] = lambda _: True,
    ) -> None:
        """Open the notifications of existing conditions, and close those of ended ones.

        may_close: whether this monitor may close the notification of a subject.
        """
        # Before the conditions: another monitor may open the notification of a newer one meanwhile.
        was_open = [notification.subject for notification in self._notifications.list_open(kind)]
        conditions = list(find(now))
        for condition in conditions:
            self._open(condition)
        subjects = {condition.subject for condition in conditions}
        for subject in was_open:
            if subject not in subjects and may_close(subject):
                self._close(kind, subject, now)

    def _open(self, notification: Notification) -> None:
        if self._notifications.open(notification):
            log.error(notification.kind, **notification.payload)

    def _close(self, kind: str, subject: str, now: datetime) -> None:
        if self._notifications.close(kind, subject, now=now):
            log.info("condition.ended", kind=kind, subject=subject)


def _build(kind: str, subject: str, now: datetime, *, cause: str = "", **payload: object) -> Notification:
    return Notification(kind, subject, cause or now.isoformat(), now, payload)
