"""/openapi.json describes every route of the web process, and reveals nothing."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.config.load import Config
from app.config.routes import build_default_routes
from app.config.settings import read_settings
from app.config.version import VERSION
from app.web.application import create_app
from app.web.responses import WebhookStatus
from tests.support.dashboard import PASSWORD, READ_PASSWORD, SETTINGS
from tests.support.documentation import read_section
from tests.support.web_process import SECRET


@pytest.fixture(params=["with the dashboard", "without it"])
def app(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[Flask]:
    database_url = f"sqlite:///{tmp_path}/inbox.db"
    variables = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "TRUTO_WEBHOOK_SECRET": SECRET}
    dashboard = SETTINGS if request.param == "with the dashboard" else {}
    application = create_app(
        Config(read_settings({**variables, **dashboard}), build_default_routes(database_url))
    )
    yield application
    application.extensions["database"].close()


def read_document(app: Flask) -> dict[str, Any]:
    response = app.test_client().get("/openapi.json")
    assert (response.status_code, response.content_type) == (200, "application/json")
    document: dict[str, Any] = json.loads(response.data)
    return document


def test_every_route_is_described_and_no_other(app: Flask) -> None:
    described = {
        (method.upper(), re.sub(r"{\w+}", "<>", path))
        for path, operations in read_document(app)["paths"].items()
        for method in operations
    }

    assert described == {
        (method, re.sub(r"<[^>]+>", "<>", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def test_each_operation_has_a_name_of_its_own_and_its_path_arguments(app: Flask) -> None:
    paths = read_document(app)["paths"]
    operations = [(path, operation) for path, item in paths.items() for operation in item.values()]

    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    for path, operation in operations:
        names = [parameter["name"] for parameter in operation.get("parameters", [])]
        assert names == re.findall(r"{(\w+)}", path)


def test_the_description_reveals_no_secret_and_no_release(app: Flask) -> None:
    text = json.dumps(read_document(app))

    assert not [value for value in (SECRET, PASSWORD, READ_PASSWORD, VERSION, "sqlite") if value in text]


def test_the_described_statuses_are_those_of_the_documentation(app: Flask) -> None:
    rows = re.findall(r"\| (\d{3}) \| `([a-z_]+)` \|", read_section("docs/http.md", "The webhook"))
    responses = read_document(app)["paths"]["/webhooks/truto"]["post"]["responses"]
    described = {
        (code, status)
        for code, response in responses.items()
        for status in response["content"]["application/json"]["schema"]["properties"]["status"]["enum"]
    }

    assert {(str(status.http_status), status.value) for status in WebhookStatus} == set(rows)
    # Another path and another method are no responses of this operation.
    assert set(rows) - described == {("404", "not_found"), ("405", "method_not_allowed")}
    assert described < set(rows)
