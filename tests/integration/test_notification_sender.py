"""Those who are told, over real HTTP: at least once, with one id, whatever they answer and whoever dies."""

import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import select
from structlog.testing import capture_logs

from app.cli.local.ports import find_free_port
from app.config.notify import NotifyConfig
from app.database.engine import Database, open_database
from app.store.migrate import migrate
from app.store.notifications import Notification, Notifications
from app.store.schema import notification_deliveries
from tests.support.fake_endpoint import SECRET, FakeEndpoint
from tests.support.processes import Command
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment
from workers.background.notification_sender import NotificationDispatcher

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY_S = 24 * 3600


class FakeClock:
    """Stands still until it is set forward."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    engine = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(engine)
    yield engine
    engine.close()


@pytest.fixture
def listen() -> Iterator[Callable[[], FakeEndpoint]]:
    listeners: list[FakeEndpoint] = []

    def listen() -> FakeEndpoint:
        listeners.append(FakeEndpoint())
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.close()


@pytest.fixture
def listener(listen: Callable[[], FakeEndpoint]) -> FakeEndpoint:
    return listen()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def make_notify_config(url: str, *, name: str = "ops", events: Sequence[str] = ("*",)) -> NotifyConfig:
    return NotifyConfig(name=name, url=url, secret=SECRET, events=tuple(events))


def add_notification(store: Database, subject: str = "r1", **payload: Any) -> Notification:
    notice = Notification("run.settled", subject, "completed", NOW, {"sync_job_run_id": subject, **payload})
    Notifications(store).add(notice)
    return notice


def state(store: Database) -> list[tuple[str, str, int, str]]:
    columns = (
        notification_deliveries.c.subscriber,
        notification_deliveries.c.state,
        notification_deliveries.c.attempts,
        notification_deliveries.c.message,
    )
    with store.engine.connect() as connection:
        return [
            tuple(row)
            for row in connection.execute(select(*columns).order_by(notification_deliveries.c.subscriber))
        ]


@pytest.fixture
def notifier(store: Database, listener: FakeEndpoint, clock: FakeClock) -> NotificationDispatcher:
    return NotificationDispatcher(store, [make_notify_config(listener.url)], clock=clock, timeout_s=0.5)


def test_who_wants_to_be_told_is_told_once(
    store: Database, listen: Callable[[], FakeEndpoint], clock: FakeClock
) -> None:
    signed, slack, other = listen(), listen(), listen()
    specs = [
        make_notify_config(signed.url),
        NotifyConfig(name="team", url=slack.url, form="slack", events=("run.*",)),
        make_notify_config(other.url, name="other", events=["sink.*"]),
    ]
    notice = add_notification(store, status="completed")
    notifier = NotificationDispatcher(store, specs, clock=clock)

    notifier.run_once()
    clock.forward(DAY_S)
    notifier.run_once()

    [heard] = signed.requests
    assert heard.id == f"msg_{notice.id.hex}"
    assert heard.sent_at == NOW.timestamp()
    assert heard.body == {
        "type": "run.settled",
        "timestamp": "2026-11-24T12:00:00Z",
        "data": {"sync_job_run_id": "r1", "status": "completed"},
    }
    [shown] = slack.requests
    assert shown.body["text"].startswith("*Run settled:* r1 ")
    assert other.requests == []
    assert state(store) == [("ops", "sent", 1, ""), ("team", "sent", 1, "")]


def test_what_failed_is_sent_again_under_the_same_id(
    store: Database, listener: FakeEndpoint, notifier: NotificationDispatcher, clock: FakeClock
) -> None:
    add_notification(store)
    listener.responses = [(500, {}), (404, {}), (302, {"Location": "/elsewhere"}), (204, {})]

    for wait_s in (3, 6, 12, 24):
        notifier.run_once()
        notifier.run_once()
        clock.forward(wait_s)
        notifier.run_once()
        clock.forward(wait_s)

    assert len(listener.requests) == 4
    assert len({heard.id for heard in listener.requests}) == 1
    assert len({heard.sent_at for heard in listener.requests}) == 4
    assert state(store) == [("ops", "sent", 4, "")]


def test_a_redirect_is_not_followed(
    store: Database,
    listener: FakeEndpoint,
    listen: Callable[[], FakeEndpoint],
    notifier: NotificationDispatcher,
) -> None:
    elsewhere = listen()
    listener.responses = [(status, {"Location": elsewhere.url}) for status in (301, 307)]
    add_notification(store, "r1")
    add_notification(store, "r2")

    notifier.run_once()

    assert elsewhere.requests == []
    assert {(each[1], each[3]) for each in state(store)} == {
        ("pending", "it answered 301: a redirect is not followed, name where it leads"),
        ("pending", "it answered 307: a redirect is not followed, name where it leads"),
    }


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asked", ["100", format_datetime(NOW + timedelta(seconds=100), usegmt=True)])
def test_who_asks_for_patience_is_given_it(
    store: Database,
    listener: FakeEndpoint,
    notifier: NotificationDispatcher,
    clock: FakeClock,
    *,
    asked: str,
    status: int,
) -> None:
    add_notification(store)
    listener.responses = [(status, {"Retry-After": asked})]

    notifier.run_once()
    clock.forward(99)
    notifier.run_once()
    assert len(listener.requests) == 1
    clock.forward(2)
    notifier.run_once()

    assert len(listener.requests) == 2
    assert state(store) == [("ops", "sent", 2, "")]


@pytest.mark.parametrize("asked", ["9" * 400, "-1", "soon", "Tue, 99 Nov 2026 99:00:00 GMT", ""])
def test_whatever_is_asked_it_is_sent_again_within_a_day(
    store: Database, listener: FakeEndpoint, notifier: NotificationDispatcher, clock: FakeClock, asked: str
) -> None:
    add_notification(store)
    listener.responses = [(429, {"Retry-After": asked})]

    notifier.run_once()
    clock.forward(DAY_S)
    notifier.run_once()

    assert state(store) == [("ops", "sent", 2, "")]


def test_who_is_gone_is_not_asked_again(
    store: Database, listener: FakeEndpoint, notifier: NotificationDispatcher, clock: FakeClock
) -> None:
    add_notification(store)
    listener.responses = [(410, {})]

    with capture_logs() as logs:
        notifier.run_once()
        clock.forward(DAY_S)
        notifier.run_once()

    assert len(listener.requests) == 1
    assert state(store) == [("ops", "dead", 1, "it answered 410: it wants to be told nothing more")]
    [line] = logs
    assert (line["event"], line["log_level"]) == ("notice.undeliverable", "error")


def test_who_never_answers_is_given_up_after_a_day(
    store: Database, listener: FakeEndpoint, notifier: NotificationDispatcher, clock: FakeClock
) -> None:
    add_notification(store)
    listener.responses = [(500, {})] * 99

    with capture_logs() as logs:
        for _ in range(30 * 60):
            notifier.run_once()
            clock.forward(60)

    assert 25 < len(listener.requests) < 45
    last = listener.requests[-1].sent_at - listener.requests[0].sent_at
    assert DAY_S <= last <= DAY_S + 3700
    assert state(store) == [("ops", "dead", len(listener.requests), "it answered 500")]
    assert [line["event"] for line in logs].count("notice.undeliverable") == 1
    assert logs[-1]["event"] == "notice.undeliverable"


def test_silence_and_absence_are_failures_like_any_other(
    store: Database, listener: FakeEndpoint, clock: FakeClock
) -> None:
    add_notification(store)
    listener.responses = [None]
    nobody = make_notify_config(f"http://127.0.0.1:{find_free_port()}", name="nobody")

    NotificationDispatcher(
        store, [nobody, make_notify_config(listener.url)], clock=clock, timeout_s=0.5
    ).run_once()

    assert state(store) == [
        ("nobody", "pending", 1, "no connection, or it broke (ConnectError)"),
        ("ops", "pending", 1, "it did not answer within 0.5 s"),
    ]


def test_what_cannot_be_sent_at_all_holds_up_nothing_and_is_tried_later(
    store: Database, listener: FakeEndpoint, clock: FakeClock
) -> None:
    add_notification(store, "r1")
    add_notification(store, "r2")
    no_name = make_notify_config(f"https://{'x' * 70}.example", name="broken")

    NotificationDispatcher(store, [no_name, make_notify_config(listener.url)], clock=clock).run_once()

    assert len(listener.requests) == 2
    broken, *_, sent = state(store)
    assert broken[:3] == ("broken", "pending", 1)
    assert broken[3].startswith("UnicodeEncodeError at ")
    assert sent[:3] == ("ops", "sent", 1)


def test_neither_addresses_nor_secrets_nor_what_is_told_are_logged(
    store: Database, listener: FakeEndpoint, notifier: NotificationDispatcher
) -> None:
    add_notification(store, "r1", reason="private")
    add_notification(store, "r2", reason="private")
    listener.responses = [(500, {})]

    with capture_logs() as logs:
        notifier.run_once()

    told = {"kind": "run.settled", "endpoint": "ops", "attempt": 1}
    assert [line["event"] for line in logs] == ["notice.postponed", "notice.sent"]
    assert all(line.items() >= told.items() for line in logs)
    assert not re.search(r"hidden|http|whsec|MfKQ|private", str([logs, state(store)]))


def test_a_store_that_is_away_is_said_once(tmp_path: Path, listener: FakeEndpoint, clock: FakeClock) -> None:
    empty = open_database(f"sqlite:///{tmp_path}/empty.db")
    notifier = NotificationDispatcher(empty, [make_notify_config(listener.url)], clock=clock)

    with capture_logs() as logs:
        notifier.run_once()
        notifier.run_once()
        migrate(empty)
        add_notification(empty)
        notifier.run_once()
    empty.close()

    assert [(line["event"], line.get("step")) for line in logs] == [
        ("notify.failed", "post"),
        ("notify.failed", "send to ops"),
        ("notice.sent", None),
    ]


class NotifierSetup:
    """A store and a routes file that names who is told, for processes of their own."""

    def __init__(self, folder: Path, url: str, **listeners: FakeEndpoint) -> None:
        self.folder = folder
        self.store = open_database(url)
        migrate(self.store)
        self.specs = [make_notify_config(listener.url, name=name) for name, listener in listeners.items()]
        (folder / "routes.toml").write_text(
            '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n'
            + "".join(
                f'[[notify]]\nname = "{spec.name}"\nurl = "{spec.url}"\nsecret = "$NOTIFY_SECRET"\n'
                for spec in self.specs
            )
        )
        self.environment = make_environment(DATABASE_URL=url, NOTIFY_SECRET=SECRET)

    def notifier(self, *arguments: str) -> Command:
        """A notifier in a process of its own."""
        command = ["tests.support.crashing_notifier", *arguments]
        return Command(command, folder=self.folder, environment=self.environment)


def test_an_endpoint_that_is_stuck_holds_up_no_other(
    tmp_path: Path, listen: Callable[[], FakeEndpoint]
) -> None:
    stuck, well = listen(), listen()
    stuck.responses = [None] * 9
    site = NotifierSetup(tmp_path, f"sqlite:///{tmp_path}/store.db", stuck=stuck, well=well)
    for number in range(5):
        add_notification(site.store, f"r{number}")

    with site.notifier() as command:
        wait_until(
            lambda: len(well.requests) == 5 and len(stuck.requests) == 1,
            timeout_s=9,
            what=lambda: command.log,
        )

    assert len(stuck.requests) == 1
    assert not re.search(r"hidden|http|whsec", command.log)
    site.store.close()


@pytest.mark.parametrize("step", ["asking", "answered"])
def test_a_notifier_killed_before_it_knows_sends_again_under_the_same_id(
    tmp_path: Path, store_url: str, step: str
) -> None:
    commands: list[Command] = []
    heard_of: list[None] = []

    def kill() -> None:
        heard_of.append(None)
        if step == "asking" and len(heard_of) == 1:
            os.kill(commands[0].pid, signal.SIGKILL)
            commands[0].process.wait(20)

    listener = FakeEndpoint(kill)
    site = NotifierSetup(tmp_path, store_url, ops=listener)

    with site.notifier(*(["mark_sent"] if step == "answered" else [])) as command:
        commands.append(command)
        notice = add_notification(site.store)
        assert command.process.wait(20) == -signal.SIGKILL, command.log
    assert [each[1] for each in state(site.store)] == ["pending"]

    in_a_minute = FakeClock()
    in_a_minute.now = datetime.now(UTC) + timedelta(seconds=61)
    NotificationDispatcher(site.store, site.specs, clock=in_a_minute).run_once()

    assert [heard.id for heard in listener.requests] == [f"msg_{notice.id.hex}"] * 2
    assert state(site.store) == [("ops", "sent", 2, "")]
    listener.close()
    site.store.close()


def test_a_worker_tells_who_wants_to_be_told(
    tmp_path: Path, listener: FakeEndpoint, redis: Redis, redis_url: str
) -> None:
    site = NotifierSetup(tmp_path, f"sqlite:///{tmp_path}/store.db", ops=listener)
    settings = site.environment | {"REDIS_URL": redis_url}

    with Command(["app.cli", "worker"], folder=tmp_path, environment=settings) as command:
        add_notification(site.store)
        wait_until(lambda: len(listener.requests) == 1, what=lambda: command.log)
        command.wait_for("notice.sent")

    site.store.close()
