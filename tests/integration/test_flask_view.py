"""The webhook is an ordinary Flask view: hooks, the URL map, the test client and instrumentation see it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from gevent import socket

from app.cli.local.ports import find_free_port
from app.config.load import Config
from app.config.routes import build_default_routes
from app.config.settings import read_settings
from app.database.engine import open_database
from app.store.inbox import Inbox
from app.store.migrate import migrate
from app.truto.signature import sign
from app.web.application import create_app
from app.web.connection import Connection
from app.web.unverified_rate import UnverifiedRate
from tests.support.web_process import SECRET

PATH = "/webhooks/truto"
BODY = json.dumps(
    {"id": "e1", "event": "sync_job_run:record", "payload": {"records": [{"id": "1"}]}}
).encode()
# Sentry patches Flask for good: only in a process of its own.
INSTRUMENTED = """
import json, sys
import sentry_sdk
from sentry_sdk.integrations.flask import FlaskIntegration
transactions = []
class Transport(sentry_sdk.Transport):
    def capture_envelope(self, envelope):
        transactions.extend(item.payload.json for item in envelope.items if item.type == "transaction")
sentry_sdk.init(
    dsn="http://key@127.0.0.1/1", transport=Transport, traces_sample_rate=1.0,
    integrations=[FlaskIntegration()], default_integrations=False,
)
from tests.integration.test_flask_view import BODY, PATH, SECRET, build, sign
app = build(sys.argv[1], sys.argv[2])
response = app.test_client().post(PATH, data=BODY, headers={"X-Truto-Signature": sign(BODY, SECRET)})
sentry_sdk.flush()
app.extensions["database"].close()
print(json.dumps([response.status_code, [item["transaction"] for item in transactions]]))
"""


def build(database_url: str, redis_url: str) -> Flask:
    variables = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "TRUTO_WEBHOOK_SECRET": SECRET}
    variables["DASHBOARD_PASSWORD"] = "a password of the tests"
    return create_app(Config(read_settings(variables), build_default_routes(database_url)))


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/inbox.db"
    store = open_database(url)
    migrate(store)
    store.close()
    return url


@pytest.fixture
def app(database_url: str, redis_url: str) -> Iterator[Flask]:
    application = build(database_url, redis_url)
    yield application
    application.extensions["database"].close()


def post(app: Flask, body: bytes = BODY, *, path: str = PATH, **options: Any) -> Any:
    headers = {"X-Truto-Signature": sign(body, SECRET)}
    return app.test_client().post(path, data=body, headers=headers, **options)


@pytest.mark.parametrize(("secret", "status"), [(SECRET, 503), ("x" * 36, 401)])
def test_a_signed_body_verifies_its_connection_without_any_store(
    tmp_path: Path, secret: str, status: int
) -> None:
    # Neither has a table, or a server.
    app = build(f"sqlite:///{tmp_path}/empty.db", f"redis://127.0.0.1:{find_free_port()}")
    server, client = socket.socketpair()
    with client, Connection(server, UnverifiedRate()) as connection:
        response = app.test_client().post(
            PATH,
            data=BODY,
            headers={"X-Truto-Signature": sign(BODY, secret)},
            environ_overrides={"gunicorn.socket": connection},
        )

        assert response.status_code == status
        assert connection.is_verified == (secret == SECRET)
    app.extensions["database"].close()


def test_the_test_client_delivers_an_event(app: Flask, database_url: str) -> None:
    response = post(app)

    assert (response.status_code, response.json["status"]) == (200, "accepted")
    store = open_database(database_url)
    assert Inbox(store).count_by_state() == {"pending": 1, "duplicate": 0}
    store.close()


def test_a_hook_before_requests_sees_the_post(app: Flask) -> None:
    seen: list[tuple[str | None, str]] = []
    app.before_request(lambda: seen.append((request.endpoint, request.method)))

    post(app)

    assert seen == [("webhooks.receive", "POST")]


def test_a_hook_after_requests_sees_the_answer_to_an_unsigned_post(app: Flask) -> None:
    seen: list[int] = []

    @app.after_request
    def see(response: Any) -> Any:
        seen.append(response.status_code)
        return response

    app.test_client().post(PATH, data=BODY)

    assert seen == [401]


def test_the_url_map_names_the_webhook_and_takes_nothing_but_posts(app: Flask) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule == PATH]

    assert [(rule.endpoint, rule.methods) for rule in rules] == [("webhooks.receive", {"POST"})]


@pytest.mark.parametrize("path", [f"{PATH}/", f"/{PATH}"])
def test_a_slash_too_many_is_the_same_webhook(app: Flask, path: str) -> None:
    response = post(app, environ_overrides={"PATH_INFO": path})

    assert (response.status_code, response.json["status"]) == (200, "accepted")


def test_no_path_is_redirected(app: Flask) -> None:
    assert post(app, path="/webhooks//truto").status_code == 404


@pytest.mark.parametrize("host", ["", "x" * 70, "a..b", "[::1", "\xe4"])
def test_an_unusual_host_header_is_never_answered_with_400(app: Flask, host: str) -> None:
    assert post(app, environ_overrides={"HTTP_HOST": host}).status_code == 200


def test_a_body_longer_than_announced_is_read_no_further(app: Flask) -> None:
    response = post(app, BODY, environ_overrides={"CONTENT_LENGTH": str(len(BODY) - 1)})

    assert response.status_code == 401


def test_a_flask_instrumentation_sees_the_post(database_url: str, redis_url: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INSTRUMENTED, database_url, redis_url],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert json.loads(ran.stdout.splitlines()[-1]) == [200, ["webhooks.receive"]]


def test_no_view_of_the_dashboard_takes_both_reading_and_acting_methods(app: Flask) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("dashboard.")]

    assert len(rules) > 20
    for rule in rules:
        assert (rule.methods or set()) - {"OPTIONS"} in ({"GET", "HEAD"}, {"POST"}), rule
