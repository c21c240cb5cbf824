"""Links that nobody's browser makes: every page answers them with a clear page, and blames no database."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest

from tests.integration.test_store_faults import migrate_store
from tests.support.dashboard import SETTINGS, DashboardClient
from tests.support.postgres import PostgresServer
from tests.support.web_process import WebProcess

EARLY, LATE = "0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"
PARAMETERS = {
    "/": ("q", "state", "environment", "after"),
    "/accounts/a": ("after",),
    "/overview": ("period",),
    "/runs": ("run", "account", "job", "environment", "status", "verdict", "since", "after"),
    "/runs/r": ("count",),
    "/deliveries": ("id", "run", "account", "state", "reason", "since", "until", "resource", "sink", "after"),
    "/failed": ("state", "window", "kind", "reason", "resource", "account", "since", "until", "after"),
    "/failed/replay": ("set", "kind", "cause_state", "cause_reason", "since", "until", "run"),
    "/routes": ("event", "resource", "account"),
    "/operations": ("after",),
    "/audit": ("after",),
}


def encode(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode())


VALUES = {
    "nested": base64.urlsafe_b64encode(b"[" * 3000),
    "surrogate": encode(["2026-11-27T00:00:00+00:00", "\ud800"]),
    "surrogate account": encode(["late", "2026-11-27T00:00:00+00:00", "\ud800"]),
    "nul": encode(["late", "2026-11-27T00:00:00+00:00", "\0"]),
    "early position": encode(["late", EARLY, "a"]),
    "late position": encode([LATE, "a"]),
    "time without offset": encode(["late", "0001-01-01T00:00:00", "a"]),
    "cause": encode(["\ud800", "", "", ""]),
    "set": encode({"filter": {"since": EARLY}, "kind": "records", "counted_at": "2026-11-27T00:00:00+00:00"}),
    "set counted late": encode({"filter": {}, "kind": "deliveries", "counted_at": LATE}),
    "raw nul": b"a\0b",
    "raw surrogate": b"\xed\xa0\x80",
    "early": EARLY.encode(),
    "late": LATE.encode(),
    "long": b"9" * 3000,
    "wildcards": b"%_*\\'\"",
}


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, private_postgres: PostgresServer, redis_url: str
) -> Iterator[DashboardClient]:
    folder: Path = tmp_path_factory.mktemp("links")
    # PostgreSQL refuses more than SQLite.
    with private_postgres.database() as url:
        migrate_store(url)
        with (
            WebProcess(folder, database_url=url, redis_url=redis_url, **SETTINGS) as web,
            DashboardClient(web.url) as client,
        ):
            yield client


@pytest.mark.parametrize("name", VALUES)
def test_a_crafted_parameter_gets_a_clear_page(client: DashboardClient, name: str) -> None:
    value = quote_from_bytes(VALUES[name], safe="")
    answers = {
        f"{path}?{parameter}": client.http.get(f"{path}?{parameter}={value}")
        for path, parameters in PARAMETERS.items()
        for parameter in parameters
    }

    unclear = {
        place: (answer.status_code, answer.text[-700:])
        for place, answer in answers.items()
        if answer.status_code not in (200, 303, 400, 404)
    }
    assert not unclear


def test_a_crafted_path_is_an_unknown_page(client: DashboardClient) -> None:
    for value in ("%00", "%ED%A0%80", "%FF", "..%2F..", "9" * 3000):
        for path in ("/accounts/{}", "/runs/{}", "/deliveries/{}", "/operations/{}"):
            assert client.get(path.format(value)).status_code in (303, 404), path.format(value)


def test_a_crafted_set_is_refused(client: DashboardClient) -> None:
    for name in ("set", "set counted late", "nested"):
        answer = client.post("/failed/discard", set=VALUES[name].decode(), because="a reason")
        assert answer.status_code == 400, answer.text
        assert "Go back" in answer.text
