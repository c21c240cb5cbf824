"""`rapidbridge webhook` against the simulated API, and `listen` against simulated deliveries."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from dotenv import dotenv_values

from app.cli.local.ports import find_free_port
from app.config.settings import WebhookSecret, read_settings
from app.database.engine import open_database
from app.store.migrate import migrate
from app.store.models import RunUpdate
from app.store.runs import Runs
from app.truto.signature import sign
from tests.integration.test_simulated_api import TOKEN, FinishedRuns, finished_runs
from tests.support.commands import run_command
from tests.support.fake_receiver import FakeReceiver, running_receiver
from tests.support.processes import ROOT, Command
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

TARGET = "https://sync.example.com/webhooks/truto"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
OLD = "7f1f7c26-52a6-4d0c-8ad7-6a3a3f4b5c6d"

Rapidbridge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def receiver() -> Iterator[FakeReceiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def runs(receiver: FakeReceiver) -> Iterator[FinishedRuns]:
    with finished_runs(receiver, records=1) as finished:
        yield finished


@pytest.fixture
def rapidbridge(runs: FinishedRuns, tmp_path: Path) -> Rapidbridge:
    def run(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        variables = {"TRUTO_API_URL": runs.url, "TRUTO_API_TOKEN": TOKEN, **settings}
        return run_command("webhook", *words, cwd=tmp_path, environment=make_environment(**variables))

    return run


def secret_of(runs: FinishedRuns, webhook_id: str) -> str:
    webhook = runs.session.webhooks.get(webhook_id)
    assert webhook
    return webhook.secret


def test_create_prints_the_secret_ready_to_paste(rapidbridge: Rapidbridge, runs: FinishedRuns) -> None:
    ran = rapidbridge("create", "--url", TARGET)

    assert ran.returncode == 0, ran.stderr
    [line] = [line for line in ran.stdout.splitlines() if line.startswith("TRUTO_WEBHOOK_SECRET=")]
    [secret] = read_settings({"TRUTO_WEBHOOK_SECRET": line.partition("=")[2]}).webhook_secrets
    assert secret.webhook_id
    assert secret == WebhookSecret(secret_of(runs, secret.webhook_id), secret.webhook_id)
    webhook = runs.api.get_webhook(secret.webhook_id)
    assert (webhook.target_url, webhook.is_active) == (TARGET, True)
    assert rapidbridge("show", webhook.id).returncode == 0


def test_create_prints_json(rapidbridge: Rapidbridge, runs: FinishedRuns) -> None:
    ran = rapidbridge("create", "--url", TARGET, "--events", "sync_job_run:record,test", "--json")

    output = json.loads(ran.stdout)
    assert output["event_types"] == ["sync_job_run:record", "test"]
    assert output["TRUTO_WEBHOOK_SECRET"] == f"{output['id']}={secret_of(runs, output['id'])}"
    assert runs.api.get_webhook(output["id"]).event_types == ("sync_job_run:record", "test")


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_secret_is_written_to_the_env_file_only(
    rapidbridge: Rapidbridge, runs: FinishedRuns, tmp_path: Path, as_json: tuple[str, ...]
) -> None:
    file = tmp_path / "settings.env"
    file.write_text(f"# ours\nPORT=9000\nTRUTO_WEBHOOK_SECRET={OLD}  # the first\nMAINTENANCE='x'\n")
    file.chmod(0o644)

    ran = rapidbridge("create", "--url", TARGET, "--env-file", str(file), *as_json)

    assert ran.returncode == 0, ran.stderr
    [id_] = [known for known in runs.session.webhooks._webhooks if known != runs.webhook_id]
    secret = secret_of(runs, id_)
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


def test_a_new_env_file_is_readable_by_its_owner_only(rapidbridge: Rapidbridge, tmp_path: Path) -> None:
    assert rapidbridge("create", "--url", TARGET, "--env-file", ".env").returncode == 0
    assert rapidbridge("create", "--url", TARGET, "--env-file", ".env").returncode == 0

    file = tmp_path / ".env"
    assert file.stat().st_mode & 0o777 == 0o600
    secrets = read_settings({"TRUTO_WEBHOOK_SECRET": dotenv_values(file)["TRUTO_WEBHOOK_SECRET"] or ""})
    assert len(secrets.webhook_secrets) == 2


@pytest.mark.parametrize("file", ["none/.env", "broken.env"])
def test_no_webhook_is_created_if_the_env_file_is_unusable(
    rapidbridge: Rapidbridge, runs: FinishedRuns, tmp_path: Path, file: str
) -> None:
    (tmp_path / "broken.env").write_text('TRUTO_WEBHOOK_SECRET="a\nb"\n')

    ran = rapidbridge("create", "--url", TARGET, "--env-file", file)

    assert ran.returncode == 2
    assert ran.stderr.startswith("--env-file: ")
    assert ("POST", "/webhook") not in runs.requests


@pytest.mark.parametrize(
    ("url", "hint"),
    [("http://sync.example.com/webhooks/truto", "HTTPS"), ("https://localhost/webhooks/truto", "tunnel")],
)
def test_an_unreachable_target_url_is_refused(
    rapidbridge: Rapidbridge, runs: FinishedRuns, url: str, hint: str
) -> None:
    ran = rapidbridge("create", "--url", url)

    assert ran.returncode == 2
    assert hint in ran.stderr
    assert not runs.requests


def test_a_refused_creation_names_the_requested_events(rapidbridge: Rapidbridge, runs: FinishedRuns) -> None:
    runs.faults.append(422)

    ran = rapidbridge("create", "--url", TARGET)

    assert ran.returncode == 1
    assert "sync_job_run:rate_limited" in ran.stderr


def test_a_webhook_without_a_list_of_events_has_all(rapidbridge: Rapidbridge, runs: FinishedRuns) -> None:
    webhooks = [runs.api.create_webhook(TARGET, events) for events in ([], ["all"])]

    ran = rapidbridge("show", *(webhook.id for webhook in webhooks))

    assert ran.returncode == 0
    assert ran.stdout.count("events   all\n") == 2
    assert "missing" not in ran.stdout


def test_truto_refuses_an_event_that_it_does_not_have(rapidbridge: Rapidbridge) -> None:
    ran = rapidbridge("create", "--url", TARGET, "--events", "sync_job_run:record,sync_job_run:stopped")

    assert ran.returncode == 1
    assert "unknown event sync_job_run:stopped" in ran.stderr


def test_an_inactive_webhook_is_reactivated(rapidbridge: Rapidbridge, runs: FinishedRuns) -> None:
    runs.request("PATCH", f"/webhook/{runs.webhook_id}", json={"is_active": False})

    off = rapidbridge("show", runs.webhook_id)
    on = rapidbridge("reactivate", runs.webhook_id)
    shown = rapidbridge("show", runs.webhook_id, "--json")

    assert off.returncode == 1
    assert "inactive" in off.stdout
    assert f"{sys.executable} -m app.cli webhook reactivate {runs.webhook_id}" in off.stdout
    assert (on.returncode, on.stdout.strip()) == (0, f"Webhook {runs.webhook_id} is active.")
    [output] = json.loads(shown.stdout)
    assert (shown.returncode, output["is_active"], output["missing_events"]) == (0, True, [])
    assert "HTTPS" in output["target_problem"]


def test_a_webhook_with_missing_events_exits_with_1(rapidbridge: Rapidbridge, runs: FinishedRuns) -> None:
    webhook = runs.api.create_webhook(TARGET, ["sync_job_run:record"])

    ran = rapidbridge("show", webhook.id, UNKNOWN)

    assert ran.returncode == 1
    assert "missing  sync_job_run:record_error" in ran.stdout
    assert f"webhook {UNKNOWN}  Truto's API at 127.0.0.1 answered 404" in ran.stdout


def test_without_an_id_pinned_and_recent_webhooks_are_shown(
    rapidbridge: Rapidbridge, runs: FinishedRuns, tmp_path: Path
) -> None:
    nothing = rapidbridge("show")
    pinned = runs.api.create_webhook(TARGET, ["sync_job_run:*"])
    store = open_database(f"sqlite:///{tmp_path}/var/rapidbridge.db")
    migrate(store)
    Runs(store).upsert(RunUpdate("r", "j", "a", "e", datetime.now(UTC), runs.webhook_id))
    store.close()

    ran = rapidbridge("show", "--json", TRUTO_WEBHOOK_SECRET=f"{pinned.id}={pinned.secret},{OLD}")

    assert nothing.returncode == 2
    assert "No webhook is known" in nothing.stderr
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {line["id"] for line in json.loads(ran.stdout)} == {pinned.id, runs.webhook_id}
    assert pinned.secret not in ran.stdout + ran.stderr


def test_a_test_event_reaches_the_receiver(
    rapidbridge: Rapidbridge, runs: FinishedRuns, receiver: FakeReceiver
) -> None:
    ran = rapidbridge("test", runs.webhook_id)

    assert (ran.returncode, receiver.events[-1]["event"]) == (0, "test")
    assert "accepted it" in ran.stdout


def test_a_test_event_that_the_receiver_refuses_exits_with_1(tmp_path: Path) -> None:
    def answer(event: dict[str, Any], _seen: int) -> int:
        return 503 if event["event"] == "test" else 200

    with running_receiver(answer) as receiver, finished_runs(receiver, records=1) as runs:
        ran = subprocess.run(
            [sys.executable, "-m", "app.cli", "webhook", "test", runs.webhook_id, "--json"],
            cwd=ROOT,
            env=make_environment(TRUTO_API_URL=runs.url, TRUTO_API_TOKEN=TOKEN),
            capture_output=True,
            text=True,
            check=False,
        )

    output = json.loads(ran.stdout)
    assert (ran.returncode, output["is_accepted"]) == (1, False)
    assert "503" in output["message"]


@pytest.mark.parametrize("words", [("test", UNKNOWN), ("reactivate", UNKNOWN), ("show", UNKNOWN)])
def test_an_unknown_webhook_exits_with_1(rapidbridge: Rapidbridge, words: tuple[str, ...]) -> None:
    ran = rapidbridge(*words)

    assert ran.returncode == 1
    assert "404" in ran.stdout
    assert "Traceback" not in ran.stderr


def test_without_a_token_no_request_is_sent(rapidbridge: Rapidbridge) -> None:
    ran = rapidbridge("show", UNKNOWN, TRUTO_API_TOKEN="")

    assert ran.returncode == 2
    assert "TRUTO_API_TOKEN: not set" in ran.stderr


@pytest.mark.parametrize(("number", "words"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--show-data",))])
def test_listen_prints_deliveries_until_it_is_stopped(
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
        wait_until(lambda: "rejected, unauthorized" in listen.log, what=lambda: listen.log)
        assert listen.stop(number) == 0

    assert "sync_job_run:record  crm/contacts  list" in listen.log
    assert ("30 records: id, " in listen.log) == (not words)
    # Field names are always printed, values only with --show-data.
    assert ('"first_name": "' in listen.log) == bool(words)
    assert "deliveries received." in listen.log
    assert "Traceback" not in listen.log
    assert sorted(path.name for path in tmp_path.iterdir()) == ["command.log", "var"]
    assert [path.name for path in (tmp_path / "var").iterdir()] == ["webhook-secret"]


def test_listen_prints_every_rejected_request_with_its_cause(tmp_path: Path) -> None:
    port = find_free_port()
    settings = make_environment(TRUTO_WEBHOOK_SECRET=f"w1={OLD}")
    url = f"http://127.0.0.1:{port}"

    def post(body: bytes, header: str | None, path: str = "/webhooks/truto") -> int:
        headers = {} if header is None else {"X-Truto-Signature": header}
        return httpx.post(url + path, content=body, headers=headers).status_code

    def send_incomplete(length: int) -> bytes:
        body = b"{}"
        head = (
            f"POST /webhooks/truto HTTP/1.1\r\nHost: localhost\r\nX-Truto-Signature: {sign(body, OLD)}\r\n"
            f"Content-Length: {length}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port), timeout=40) as connection:
            connection.sendall(head.encode() + body)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)[:13]

    command = ["app.cli", "webhook", "listen", "--port", str(port)]
    with Command(command, folder=tmp_path, environment=settings) as listen:
        listen.wait_for("Ctrl-C")
        foreign = b'{"event": "test", "webhook_id": "w2"}'
        codes = [
            *(post(b"{}", sign(b"{}", "another")) for _ in range(3)),
            post(b"{}", None),
            post(b"{}", "v=1"),
            post(foreign, sign(foreign, OLD)),
            post(b"{}", sign(b"{}", OLD), "/webhook"),
        ]
        incomplete, too_large = send_incomplete(100), send_incomplete(10**9)
        causes = [
            "unauthorized: the signature matches no secret in TRUTO_WEBHOOK_SECRET",
            "unauthorized: the X-Truto-Signature header is missing",
            "unauthorized: the X-Truto-Signature header is malformed",
            "unauthorized: signed with a secret that TRUTO_WEBHOOK_SECRET pins to another webhook",
            "too_large: the body is larger than MAX_BODY_BYTES",
            "not_found: webhooks are received by POST /webhooks/truto",
            "incomplete: the body stalled or ended too early",
        ]
        for cause in causes:
            listen.wait_for(f"rejected, {cause}")
        listen.stop()
        log = listen.log

    assert codes == [401] * 6 + [404]
    assert (incomplete, too_large) == (b"HTTP/1.1 408 ", b"HTTP/1.1 413 ")
    # Requests that are counted together share a line.
    lines = [line for line in log.splitlines() if "matches no secret" in line]
    numbers = [re.search(r"\((\d) requests\)$", line) for line in lines]
    assert sum(int(number[1]) if number else 1 for number in numbers) == 3
    assert "0 deliveries received." in log
