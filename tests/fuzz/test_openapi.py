"""Every response to a request made from /openapi.json is one that it describes."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.generation.modes import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.truto.signature import sign
from app.truto.target_url import WEBHOOK_PATH
from tests.support.dashboard import DashboardClient
from tests.support.web_process import SECRET, WebProcess

CHECKS: list[CheckFunction] = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 15
WEBHOOK_EXAMPLES = 150
TIMEOUT_S = 120
OPERATIONS = [
    f"POST {WEBHOOK_PATH}",
    *(f"GET {path}" for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/login", "/", "/runs")),
    *(f"GET {path}" for path in ("/deliveries", "/deliveries/{delivery_id}", "/failed", "/runs/{run_id}")),
    *(f"GET {path}" for path in ("/accounts/{account_id}", "/assets/{name}", "/operations/{operation_id}")),
    *(f"POST {path}" for path in ("/login", "/sinks/{name}/pause", "/deletes/{check_id}/approve")),
    *(f"POST {path}" for path in ("/deliveries/{delivery_id}/discard", "/failed/replay")),
]
# The other operations accept any text.
CASES = [
    *((operation, GenerationMode.POSITIVE) for operation in OPERATIONS),
    *(
        (operation, GenerationMode.NEGATIVE)
        for operation in OPERATIONS
        if "POST" in operation or "{" in operation
    ),
]


class Signature(requests.auth.AuthBase):
    """Signs the body of a request as Truto does."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        body = request.body
        content = body if isinstance(body, bytes) else str(body or "").encode()
        request.headers["X-Truto-Signature"] = sign(content, SECRET)
        return request


@pytest.fixture(scope="module")
def schema(web: WebProcess) -> Any:
    return schemathesis.openapi.from_dict(httpx.get(f"{web.url}/openapi.json").json())


@pytest.fixture(scope="module")
def signed_in(web: WebProcess) -> Iterator[requests.Session]:
    with DashboardClient(web.url) as client, requests.Session() as session:
        session.cookies.update(dict(client.http.cookies))
        yield session


@pytest.mark.fuzz
@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_every_response_is_described(
    web: WebProcess, schema: Any, signed_in: requests.Session, operation: str, mode: GenerationMode
) -> None:
    method, path = operation.split(" ")
    is_webhook = path == WEBHOOK_PATH

    @settings(
        max_examples=WEBHOOK_EXAMPLES if is_webhook else EXAMPLES,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(schema[path][method].as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        options = {"base_url": web.url, "timeout": TIMEOUT_S, "allow_redirects": False}
        signatures = (None, Signature()) if is_webhook else (None,)
        for auth in signatures:
            response = case.call(session=signed_in, auth=auth, **options)
            assert response.status_code != 500, response.text
            case.validate_response(response, checks=CHECKS)

    check()
    assert "level=error" not in web.log
