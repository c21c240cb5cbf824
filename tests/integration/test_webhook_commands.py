"""`rapidbridge webhook` against the stand-in for Truto's API, and `listen` against its deliveries."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from app.cli.local.ports import find_free_port
from app.config.settings import WebhookSecret, read_settings
from app.database.engine import open_database
from app.store.migrate import migrate
from app.store.models import RunUpdate
from app.store.runs import Runs
from tests.integration.test_simulated_api import TOKEN, FinishedRuns, finished_runs
from tests.support.fake_receiver import FakeReceiver, running_receiver
from tests.support.processes import ROOT, Command
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

TARGET = "https://sync.example.com/webhooks/truto"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
OLD = "7f1f7c26-52a6-4d0c-8ad7-6a3a3f4b5c6d"

Rapidbridge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def to() -> Iterator[FakeReceiver]:
    with running_receiver() as made:
        yield made


@pytest.fixture
def play(to: FakeReceiver) -> Iterator[FinishedRuns]:
    with finished_runs(to, records=1) as made:
        yield made


@pytest.fixture
def rapidbridge(play: FinishedRuns, tmp_path: Path) -> Rapidbridge:
    def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        variables = {"TRUTO_API_URL": play.url, "TRUTO_API_TOKEN": TOKEN, **settings}
        return subprocess.run(
            [sys.executable, "-m", "app.cli", "webhook", *words],
            cwd=tmp_path,
            env=make_environment(**variables) | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def secret_of(play: FinishedRuns, webhook_id: str) -> str:
    webhook = play.session.webhooks.get(webhook_id)
    assert webhook
    return webhook.secret


def test_a_created_webhook_is_told_with_its_secret_ready_to_paste(
    rapidbridge: Rapidbridge, play: FinishedRuns
) -> None:
    ran = rapidbridge("create", "--url", TARGET)

    assert ran.returncode == 0, ran.stderr
    [line] = [line for line in ran.stdout.splitlines() if line.startswith("TRUTO_WEBHOOK_SECRET=")]
    [secret] = read_settings({"TRUTO_WEBHOOK_SECRET": line.partition("=")[2]}).webhook_secrets
    assert secret.webhook_id
    assert secret == WebhookSecret(secret_of(play, secret.webhook_id), secret.webhook_id)
    made = play.api.get_webhook(secret.webhook_id)
    assert (made.target_url, made.is_active) == (TARGET, True)
    assert rapidbridge("show", made.id).returncode == 0


def test_a_created_webhook_as_json(rapidbridge: Rapidbridge, play: FinishedRuns) -> None:
    ran = rapidbridge("create", "--url", TARGET, "--events", "sync_job_run:record,test", "--json")

    told = json.loads(ran.stdout)
    assert told["event_types"] == ["sync_job_run:record", "test"]
    assert told["TRUTO_WEBHOOK_SECRET"] == f"{told['id']}={secret_of(play, told['id'])}"
    assert play.api.get_webhook(told["id"]).event_types == ("sync_job_run:record", "test")


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_secret_goes_into_the_file_and_nowhere_else(
    rapidbridge: Rapidbridge, play: FinishedRuns, tmp_path: Path, as_json: tuple[str, ...]
) -> None:
    file = tmp_path / "settings.env"
    file.write_text(f"# ours\nPORT=9000\nTRUTO_WEBHOOK_SECRET={OLD}  # the first\nMAINTENANCE='x'\n")
    file.chmod(0o644)

    ran = rapidbridge("create", "--url", TARGET, "--env-file", str(file), *as_json)

    assert ran.returncode == 0, ran.stderr
    [id_] = [made for made in play.session.webhooks._known if made != play.webhook_id]
    secret = secret_of(play, id_)
    assert id_ in ran.stdout
    assert secret not in ran.stdout + ran.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().splitlines() == [
        "# ours",
        "PORT=9000",
        f"TRUTO_WEBHOOK_SECRET={OLD},{id_}={secret}  # the first",
        "MAINTENANCE='x'",
    ]
    assert dotenv_values(file)["TRUTO_WEBHOOK_SECRET"] == f"{OLD},{id_}={secret}"
    assert [path.name for path in tmp_path.iterdir()] == ["settings.env"]


def test_a_new_file_is_nobody_elses(rapidbridge: Rapidbridge, tmp_path: Path) -> None:
    assert rapidbridge("create", "--url", TARGET, "--env-file", ".env").returncode == 0
    assert rapidbridge("create", "--url", TARGET, "--env-file", ".env").returncode == 0

    file = tmp_path / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    secrets = read_settings({"TRUTO_WEBHOOK_SECRET": dotenv_values(file)["TRUTO_WEBHOOK_SECRET"] or ""})
    assert len(secrets.webhook_secrets) == 2


@pytest.mark.parametrize("file", ["none/.env", "broken.env"])
def test_nothing_is_created_whose_secret_could_not_be_kept(
    rapidbridge: Rapidbridge, play: FinishedRuns, tmp_path: Path, file: str
) -> None:
    (tmp_path / "broken.env").write_text('TRUTO_WEBHOOK_SECRET="a\nb"\n')

    ran = rapidbridge("create", "--url", TARGET, "--env-file", file)

    assert ran.returncode == 2
    assert ran.stderr.startswith("--env-file: ")
    assert ("POST", "/webhook") not in play.requests


@pytest.mark.parametrize(
    ("url", "hint"),
    [("http://sync.example.com/webhooks/truto", "HTTPS"), ("https://localhost/webhooks/truto", "tunnel")],
)
def test_a_target_that_truto_cannot_reach_is_refused(
    rapidbridge: Rapidbridge, play: FinishedRuns, url: str, hint: str
) -> None:
    ran = rapidbridge("create", "--url", url)

    assert ran.returncode == 2
    assert hint in ran.stderr
    assert not play.requests


def test_a_creation_that_truto_refuses_names_the_events(rapidbridge: Rapidbridge, play: FinishedRuns) -> None:
    play.faults.append(422)

    ran = rapidbridge("create", "--url", TARGET)

    assert ran.returncode == 1
    assert "sync_job_run:stopped" in ran.stderr


def test_a_webhook_is_switched_on_again(rapidbridge: Rapidbridge, play: FinishedRuns) -> None:
    play.request("PATCH", f"/webhook/{play.webhook_id}", json={"is_active": False})

    off = rapidbridge("show", play.webhook_id)
    on = rapidbridge("reactivate", play.webhook_id)
    shown = rapidbridge("show", play.webhook_id, "--json")

    assert off.returncode == 1
    assert "inactive" in off.stdout
    assert f"rapidbridge webhook reactivate {play.webhook_id}" in off.stdout
    assert (on.returncode, on.stdout.strip()) == (0, f"Webhook {play.webhook_id} is active.")
    [told] = json.loads(shown.stdout)
    assert (shown.returncode, told["is_active"], told["missing_events"]) == (0, True, [])
    assert "HTTPS" in told["target_fault"]


def test_a_webhook_that_lacks_events_is_bad_news(rapidbridge: Rapidbridge, play: FinishedRuns) -> None:
    made = play.api.create_webhook(TARGET, ["sync_job_run:record"])

    ran = rapidbridge("show", made.id, UNKNOWN)

    assert ran.returncode == 1
    assert "missing  sync_job_run:record_error" in ran.stdout
    assert f"webhook {UNKNOWN}  Truto's API at 127.0.0.1 answered 404" in ran.stdout


def test_without_an_id_the_pinned_and_the_seen_are_shown(
    rapidbridge: Rapidbridge, play: FinishedRuns, tmp_path: Path
) -> None:
    nothing = rapidbridge("show")
    pinned = play.api.create_webhook(TARGET, ["sync_job_run:*"])
    store = open_database(f"sqlite:///{tmp_path}/var/rapidbridge.db")
    migrate(store)
    Runs(store).upsert(RunUpdate("r", "j", "a", "e", datetime.now(UTC), play.webhook_id))
    store.close()

    ran = rapidbridge("show", "--json", TRUTO_WEBHOOK_SECRET=f"{pinned.id}={pinned.secret},{OLD}")

    assert nothing.returncode == 2
    assert "No webhook is known" in nothing.stderr
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {line["id"] for line in json.loads(ran.stdout)} == {pinned.id, play.webhook_id}
    assert pinned.secret not in ran.stdout + ran.stderr


def test_a_test_event_reaches_the_receiver(
    rapidbridge: Rapidbridge, play: FinishedRuns, to: FakeReceiver
) -> None:
    ran = rapidbridge("test", play.webhook_id)

    assert (ran.returncode, to.events[-1]["event"]) == (0, "test")
    assert "took it" in ran.stdout


def test_a_test_event_that_is_not_taken_is_bad_news(tmp_path: Path) -> None:
    def answer(event: dict[str, Any], _seen: int) -> int:
        return 503 if event["event"] == "test" else 200

    with running_receiver(answer) as to, finished_runs(to, records=1) as play:
        ran = subprocess.run(
            [sys.executable, "-m", "app.cli", "webhook", "test", play.webhook_id, "--json"],
            cwd=ROOT,
            env=make_environment(TRUTO_API_URL=play.url, TRUTO_API_TOKEN=TOKEN),
            capture_output=True,
            text=True,
            check=False,
        )

    told = json.loads(ran.stdout)
    assert (ran.returncode, told["is_taken"]) == (1, False)
    assert "503" in told["message"]


@pytest.mark.parametrize("words", [("test", UNKNOWN), ("reactivate", UNKNOWN), ("show", UNKNOWN)])
def test_an_unknown_webhook_is_bad_news(rapidbridge: Rapidbridge, words: tuple[str, ...]) -> None:
    ran = rapidbridge(*words)

    assert ran.returncode == 1
    assert "404" in ran.stdout
    assert "Traceback" not in ran.stderr


def test_without_a_token_nothing_is_asked(rapidbridge: Rapidbridge) -> None:
    ran = rapidbridge("show", UNKNOWN, TRUTO_API_TOKEN="")

    assert ran.returncode == 2
    assert "TRUTO_API_TOKEN: not set" in ran.stderr


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--show-data",))])
def test_listen_prints_what_arrives_until_it_is_told_to_stop(
    tmp_path: Path, number: int, words: tuple[str, ...]
) -> None:
    port = str(find_free_port())
    settings = make_environment(TRUTO_API_TOKEN=TOKEN, TRUTO_API_URL="http://127.0.0.1:1")

    with Command(
        ["app.cli", "webhook", "listen", "--port", port, *words], folder=tmp_path, environment=settings
    ) as listen:
        listen.wait_for("Ctrl-C")
        assert f"http://127.0.0.1:{port}/webhooks/truto" in listen.log
        simulate = ["simulate", "--records", "30", "--resource", "crm/contacts", "--forged", "3"]
        sent = subprocess.run(
            [sys.executable, "-m", "app.cli", *simulate],
            cwd=tmp_path,
            env=make_environment(PORT=port) | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert sent.returncode == 0, sent.stderr
        listen.wait_for("sync_job_run:completed")
        wait_until(lambda: "turned away, unauthorized" in listen.log, what=lambda: listen.log)
        assert listen.stop(number) == 0

    assert "sync_job_run:record  crm/contacts  list" in listen.log
    assert ("30 records: id, " in listen.log) == (not words)
    # The names of fields always, their values only where they are asked for.
    assert ('"first_name": "' in listen.log) == bool(words)
    assert "deliveries came" in listen.log
    assert "Traceback" not in listen.log
    assert sorted(path.name for path in tmp_path.iterdir()) == ["command.log", "var"]
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["webhook-secret"]
