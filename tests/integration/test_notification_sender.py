"""Notifications over real HTTP: sent at least once, with one id, after any response or crash."""

import os
import re
import signal
import socket
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
from tests.support import hostile_server
from tests.support.fake_endpoint import SECRET, FakeEndpoint
from tests.support.processes import Command
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment
from workers.background.notification_sender import NotificationDispatcher

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY_S = 24 * 3600


class FakeClock:
    """Stands still until a test moves it forward."""

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
def open_endpoint() -> Iterator[Callable[[], FakeEndpoint]]:
    endpoints: list[FakeEndpoint] = []

    def open_endpoint() -> FakeEndpoint:
        endpoints.append(FakeEndpoint())
        return endpoints[-1]

    yield open_endpoint
    for endpoint in endpoints:
        endpoint.close()


@pytest.fixture
def endpoint(open_endpoint: Callable[[], FakeEndpoint]) -> FakeEndpoint:
    return open_endpoint()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def make_notify_config(url: str, *, name: str = "ops", events: Sequence[str] = ("*",)) -> NotifyConfig:
    return NotifyConfig(name=name, url=url, secret=SECRET, events=tuple(events), allow_private=True)


def add_notification(store: Database, subject: str = "r1", **payload: Any) -> Notification:
    notification = Notification(
        "run.reconciled", subject, "completed", NOW, {"sync_job_run_id": subject, **payload}
    )
    Notifications(store).add(notification)
    return notification


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
def notifier(store: Database, endpoint: FakeEndpoint, clock: FakeClock) -> NotificationDispatcher:
    return NotificationDispatcher(store, [make_notify_config(endpoint.url)], clock=clock, timeout_s=0.5)


def test_every_subscriber_receives_its_kinds_of_notification_once(
    store: Database, open_endpoint: Callable[[], FakeEndpoint], clock: FakeClock
) -> None:
    signed, slack, other = open_endpoint(), open_endpoint(), open_endpoint()
    configs = [
        make_notify_config(signed.url),
        NotifyConfig(name="team", url=slack.url, form="slack", events=("run.*",), allow_private=True),
        make_notify_config(other.url, name="other", events=["sink.*"]),
    ]
    notification = add_notification(store, status="completed")
    notifier = NotificationDispatcher(store, configs, clock=clock)

    notifier.run_once()
    clock.forward(DAY_S)
    notifier.run_once()

    [request] = signed.requests
    assert request.id == f"msg_{notification.id.hex}"
    assert request.sent_at == NOW.timestamp()
    assert request.body == {
        "type": "run.reconciled",
        "timestamp": "2026-11-24T12:00:00Z",
        "data": {"sync_job_run_id": "r1", "status": "completed"},
    }
    [slack_request] = slack.requests
    assert slack_request.body["text"].startswith("*Run reconciled:* r1 ")
    assert other.requests == []
    assert state(store) == [("ops", "sent", 1, ""), ("team", "sent", 1, "")]


def test_a_condition_becomes_an_incident_that_its_end_resolves(
    store: Database, open_endpoint: Callable[[], FakeEndpoint], clock: FakeClock
) -> None:
    teams, pagerduty = open_endpoint(), open_endpoint()
    pager = NotifyConfig(
        name="pager", url=pagerduty.url, form="pagerduty", secret="a1B2" * 8, allow_private=True
    )
    configs = [NotifyConfig(name="teams", url=teams.url, form="teams", allow_private=True), pager]
    notifier = NotificationDispatcher(store, configs, clock=clock, public_url="https://sync.example.com")
    failing = Notification("sink.failing", "main", "c", NOW, {"sink": "main"})
    Notifications(store).open(failing)
    add_notification(store, resources=[])

    notifier.run_once()
    clock.forward(2 * DAY_S)
    Notifications(store).close("sink.failing", "main", now=clock.now)
    # The condition lasted for days; the retries of its end count from the end.
    pagerduty.responses = [(500, {})]
    notifier.run_once()
    clock.forward(10)
    notifier.run_once()

    sent = [request.body for request in pagerduty.requests]
    assert [event["event_action"] for event in sent] == ["trigger", "resolve", "resolve"]
    assert {event["dedup_key"] for event in sent} == {failing.id.hex}
    assert sent[0]["client_url"] == "https://sync.example.com/sinks"
    assert [request.body["type"] for request in teams.requests] == ["message", "message"]
    assert {row[1] for row in state(store)} == {"sent"}


def test_a_failed_notification_is_retried_with_the_same_id(
    store: Database, endpoint: FakeEndpoint, notifier: NotificationDispatcher, clock: FakeClock
) -> None:
    add_notification(store)
    endpoint.responses = [(500, {}), (404, {}), (302, {"Location": "/elsewhere"}), (204, {})]

    for wait_s in (3, 6, 12, 24):
        notifier.run_once()
        notifier.run_once()
        clock.forward(wait_s)
        notifier.run_once()
        clock.forward(wait_s)

    assert len(endpoint.requests) == 4
    assert len({request.id for request in endpoint.requests}) == 1
    assert len({request.sent_at for request in endpoint.requests}) == 4
    assert state(store) == [("ops", "sent", 4, "")]


def test_a_redirect_is_not_followed(
    store: Database,
    endpoint: FakeEndpoint,
    open_endpoint: Callable[[], FakeEndpoint],
    notifier: NotificationDispatcher,
) -> None:
    elsewhere = open_endpoint()
    endpoint.responses = [(status, {"Location": elsewhere.url}) for status in (301, 307)]
    add_notification(store, "r1")
    add_notification(store, "r2")

    notifier.run_once()

    assert elsewhere.requests == []
    assert {(row[1], row[3]) for row in state(store)} == {
        ("pending", "the subscriber answered 301: redirects are not followed, set `url` to the target"),
        ("pending", "the subscriber answered 307: redirects are not followed, set `url` to the target"),
    }


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("retry_after", ["100", format_datetime(NOW + timedelta(seconds=100), usegmt=True)])
def test_retry_after_delays_the_retry(
    store: Database,
    endpoint: FakeEndpoint,
    notifier: NotificationDispatcher,
    clock: FakeClock,
    *,
    retry_after: str,
    status: int,
) -> None:
    add_notification(store)
    endpoint.responses = [(status, {"Retry-After": retry_after})]

    notifier.run_once()
    clock.forward(99)
    notifier.run_once()
    assert len(endpoint.requests) == 1
    clock.forward(2)
    notifier.run_once()

    assert len(endpoint.requests) == 2
    assert state(store) == [("ops", "sent", 2, "")]


@pytest.mark.parametrize("retry_after", ["9" * 400, "-1", "soon", "Tue, 99 Nov 2026 99:00:00 GMT", ""])
def test_any_retry_after_is_limited_to_a_day(
    store: Database,
    endpoint: FakeEndpoint,
    notifier: NotificationDispatcher,
    clock: FakeClock,
    retry_after: str,
) -> None:
    add_notification(store)
    endpoint.responses = [(429, {"Retry-After": retry_after})]

    notifier.run_once()
    clock.forward(DAY_S)
    notifier.run_once()

    assert state(store) == [("ops", "sent", 2, "")]


def test_a_subscriber_that_answers_410_gets_no_retry(
    store: Database, endpoint: FakeEndpoint, notifier: NotificationDispatcher, clock: FakeClock
) -> None:
    add_notification(store)
    endpoint.responses = [(410, {})]

    with capture_logs() as logs:
        notifier.run_once()
        clock.forward(DAY_S)
        notifier.run_once()

    assert len(endpoint.requests) == 1
    assert state(store) == [("ops", "dead", 1, "the subscriber answered 410: it wants no more notifications")]
    [line] = logs
    assert (line["event"], line["log_level"]) == ("notification.dead", "error")


def test_a_notification_is_dead_after_a_day_of_failures(
    store: Database, endpoint: FakeEndpoint, notifier: NotificationDispatcher, clock: FakeClock
) -> None:
    add_notification(store)
    endpoint.responses = [(500, {})] * 99

    with capture_logs() as logs:
        for _ in range(30 * 60):
            notifier.run_once()
            clock.forward(60)

    assert 25 < len(endpoint.requests) < 45
    last = endpoint.requests[-1].sent_at - endpoint.requests[0].sent_at
    assert DAY_S <= last <= DAY_S + 3700
    assert state(store) == [("ops", "dead", len(endpoint.requests), "the subscriber answered 500")]
    assert [line["event"] for line in logs].count("notification.dead") == 1
    assert logs[-1]["event"] == "notification.dead"


def test_timeouts_and_refused_connections_are_retried(
    store: Database, endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    add_notification(store)
    endpoint.responses = [None]
    unreachable = make_notify_config(f"http://127.0.0.1:{find_free_port()}", name="unreachable")

    NotificationDispatcher(
        store, [unreachable, make_notify_config(endpoint.url)], clock=clock, timeout_s=0.5
    ).run_once()

    assert state(store) == [
        ("ops", "pending", 1, "no response within 0.5 s"),
        ("unreachable", "pending", 1, "the connection failed (ConnectError)"),
    ]


@pytest.mark.parametrize("respond", [hostile_server.drip_headers, hostile_server.drip_nothing])
def test_a_response_that_drips_is_retried_at_the_deadline(
    store: Database, clock: FakeClock, respond: Callable[[socket.socket], None]
) -> None:
    add_notification(store)

    with hostile_server.serving(respond) as url:
        NotificationDispatcher(store, [make_notify_config(url)], clock=clock, timeout_s=0.5).run_once()

    assert state(store) == [("ops", "pending", 1, "no response within 0.5 s")]


def test_a_private_address_is_refused_until_it_is_allowed(
    store: Database, endpoint: FakeEndpoint, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A proxy could connect to any address.
    monkeypatch.setenv("http_proxy", endpoint.url)
    allowed = make_notify_config(endpoint.url.replace("127.0.0.1", "localhost"))
    refused = allowed.model_copy(update={"allow_private": False})
    add_notification(store)

    NotificationDispatcher(store, [refused], clock=clock).run_once()

    advice = "set allow_private = true beside its URL if it belongs to your own network"
    assert state(store) == [("ops", "pending", 1, f"the subscriber has no public address; {advice}")]
    assert endpoint.requests == []

    monkeypatch.delenv("http_proxy")
    clock.forward(DAY_S)
    NotificationDispatcher(store, [allowed], clock=clock).run_once()

    assert state(store) == [("ops", "sent", 2, "")]


def test_an_unsendable_notification_blocks_no_other_and_is_retried(
    store: Database, endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    add_notification(store, "r1")
    add_notification(store, "r2")
    unsendable = make_notify_config(f"https://{'x' * 70}.example", name="broken")

    NotificationDispatcher(store, [unsendable, make_notify_config(endpoint.url)], clock=clock).run_once()

    assert len(endpoint.requests) == 2
    broken, *_, sent = state(store)
    assert broken[:3] == ("broken", "pending", 1)
    assert re.match(r"Unicode(Encode)?Error at ", broken[3])
    assert sent[:3] == ("ops", "sent", 1)


def test_logs_contain_no_url_no_secret_and_no_payload(
    store: Database, endpoint: FakeEndpoint, notifier: NotificationDispatcher
) -> None:
    add_notification(store, "r1", reason="private")
    add_notification(store, "r2", reason="private")
    endpoint.responses = [(500, {})]

    with capture_logs() as logs:
        notifier.run_once()

    fields = {"kind": "run.reconciled", "subscriber": "ops", "attempt": 1}
    assert [line["event"] for line in logs] == ["notification.rescheduled", "notification.sent"]
    assert all(line.items() >= fields.items() for line in logs)
    assert not re.search(r"hidden|http|whsec|MfKQ|private", str([logs, state(store)]))


def test_an_unavailable_store_and_its_return_are_logged_once(
    tmp_path: Path, endpoint: FakeEndpoint, clock: FakeClock
) -> None:
    empty = open_database(f"sqlite:///{tmp_path}/empty.db")
    notifier = NotificationDispatcher(empty, [make_notify_config(endpoint.url)], clock=clock)

    with capture_logs() as logs:
        notifier.run_once()
        notifier.run_once()
        migrate(empty)
        add_notification(empty)
        notifier.run_once()
    empty.close()

    assert [(line["event"], line.get("task")) for line in logs] == [
        ("task.failed", "notification fan-out"),
        ("task.failed", "notification sender ops"),
        ("task.recovered", "notification fan-out"),
        ("notification.sent", None),
        ("task.recovered", "notification sender ops"),
    ]


class NotifierSetup:
    """A store and a routes file with subscribers, for processes of their own."""

    def __init__(self, folder: Path, url: str, **endpoints: FakeEndpoint) -> None:
        self.folder = folder
        self.store = open_database(url)
        migrate(self.store)
        self.configs = [make_notify_config(endpoint.url, name=name) for name, endpoint in endpoints.items()]
        (folder / "routes.toml").write_text(
            '[sinks.main]\ntype = "sql"\nurl = "$DATABASE_URL"\n'
            + "".join(
                f'[[notify]]\nname = "{config.name}"\nurl = "{config.url}"\nsecret = "$NOTIFY_SECRET"\n'
                "allow_private = true\n"
                for config in self.configs
            )
        )
        self.environment = make_environment(DATABASE_URL=url, NOTIFY_SECRET=SECRET)

    def notifier(self, *arguments: str) -> Command:
        """Start a notifier in a process of its own."""
        command = ["tests.support.crashing_notifier", *arguments]
        return Command(command, folder=self.folder, environment=self.environment)


def test_a_subscriber_that_hangs_delays_no_other(
    tmp_path: Path, open_endpoint: Callable[[], FakeEndpoint]
) -> None:
    stuck, healthy = open_endpoint(), open_endpoint()
    stuck.responses = [None] * 9
    setup = NotifierSetup(tmp_path, f"sqlite:///{tmp_path}/store.db", stuck=stuck, healthy=healthy)
    for number in range(5):
        add_notification(setup.store, f"r{number}")

    with setup.notifier() as command:
        wait_until(
            lambda: len(healthy.requests) == 5 and len(stuck.requests) == 1,
            timeout_s=9,
            what=lambda: command.log,
        )

    assert len(stuck.requests) == 1
    assert not re.search(r"hidden|http|whsec", command.log)
    setup.store.close()


@pytest.mark.parametrize("step", ["in_request", "after_response"])
def test_a_killed_notifier_sends_again_with_the_same_id(tmp_path: Path, store_url: str, step: str) -> None:
    commands: list[Command] = []
    requests: list[None] = []

    def kill() -> None:
        requests.append(None)
        if step == "in_request" and len(requests) == 1:
            os.kill(commands[0].pid, signal.SIGKILL)
            commands[0].process.wait(20)

    endpoint = FakeEndpoint(kill)
    setup = NotifierSetup(tmp_path, store_url, ops=endpoint)

    with setup.notifier(*(["mark_sent"] if step == "after_response" else [])) as command:
        commands.append(command)
        notification = add_notification(setup.store)
        assert command.process.wait(20) == -signal.SIGKILL, command.log
    assert [row[1] for row in state(setup.store)] == ["pending"]

    in_a_minute = FakeClock()
    in_a_minute.now = datetime.now(UTC) + timedelta(seconds=61)
    NotificationDispatcher(setup.store, setup.configs, clock=in_a_minute).run_once()

    assert [request.id for request in endpoint.requests] == [f"msg_{notification.id.hex}"] * 2
    assert state(setup.store) == [("ops", "sent", 2, "")]
    endpoint.close()
    setup.store.close()


def test_the_worker_command_sends_notifications(
    tmp_path: Path, endpoint: FakeEndpoint, redis: Redis, redis_url: str
) -> None:
    setup = NotifierSetup(tmp_path, f"sqlite:///{tmp_path}/store.db", ops=endpoint)
    settings = setup.environment | {"REDIS_URL": redis_url}

    with Command(["app.cli", "worker"], folder=tmp_path, environment=settings) as command:
        add_notification(setup.store)
        wait_until(lambda: len(endpoint.requests) == 1, what=lambda: command.log)
        command.wait_for("notification.sent")

    setup.store.close()
