"""GET /openapi.json: the HTTP endpoints, described from the code that serves them."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Flask, Response
from pydantic import BaseModel
from werkzeug.routing import Rule

from app.truto.events import EVENT_MEMBERS
from app.web.dashboard.access import CSRF_FIELD
from app.web.health import LivenessBody, ReadinessBody
from app.web.metrics import OPENMETRICS, TEXT, MetricsRefusal
from app.web.responses import WebhookBody, WebhookStatus

_PATH = "/openapi.json"
_JSON, _HTML, _FORM = "application/json", "text/html", "application/x-www-form-urlencoded"
# Each page has its own fields, all texts; this one shows that the page is of the same session.
_FORM_SCHEMA = {
    "type": "object",
    "properties": {CSRF_FIELD: {"type": "string"}},
    "additionalProperties": {"type": "string"},
}
# Of routing: no operation responds with them.
_OTHER_STATUSES = (WebhookStatus.NOT_FOUND, WebhookStatus.METHOD_NOT_ALLOWED)
_SECURITY_SCHEMES = {
    "signature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Truto-Signature",
        "description": "format=sha256,v=<HMAC-SHA256 of the body with the webhook's secret, hex or base64>",
    },
    "metricsToken": {"type": "http", "scheme": "bearer", "description": "METRICS_TOKEN, if it is set"},
}
_PAGE_RESPONSES = {
    "Redirect": ("a redirect to the sign-in page, or to the page that shows the result", _HTML),
    # JSON is of a path that is of no page, such as one with an id of another form.
    "Refusal": ("the reason of the refusal", _HTML, _JSON),
    "Unavailable": ("the server that does not answer: the database, Redis or the page itself", _HTML),
}
# Files, and not HTML.
_DOWNLOADS = ("dashboard.asset", "dashboard.raw_body")
# Of a rule, such as `<id:run_id>`.
_ARGUMENT = re.compile(r"<(?:(\w+):)?(\w+)>")
# By Flask's converter: "" is any text without a slash.
_PATH_SCHEMAS = {
    "": {"type": "string", "pattern": "^[^/]+$"},
    "id": {"type": "string", "minLength": 1},
    "uuid": {"type": "string", "format": "uuid"},
}
_Operation = dict[str, Any]


def register_openapi_route(app: Flask) -> None:
    """Add /openapi.json to the application, after all other routes."""

    @app.get(_PATH)
    def openapi() -> Response:
        return Response(body, content_type=_JSON)

    body = json.dumps(build_document(app.url_map.iter_rules())).encode()


def build_document(rules: Iterable[Rule]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of the routes. It names no setting's value and no release."""
    paths: defaultdict[str, dict[str, _Operation]] = defaultdict(dict)
    api = _build_api_operations()
    for rule in sorted(rules, key=lambda rule: rule.rule):
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            if rule.endpoint in api:
                operation = api[rule.endpoint]
            elif rule.endpoint.startswith("dashboard."):
                operation = _build_page_operation(rule, method)
            else:
                raise LookupError(f"{rule.endpoint} has no description; add one to app/web/openapi.py")
            named = {"operationId": rule.endpoint.replace(".", "_"), **operation}
            paths[_format_path(rule)][method.lower()] = named
    return {
        "openapi": "3.1.0",
        # The version of the endpoints: anyone may read it, and the release would show known faults.
        "info": {"title": "RapidBridge receiver", "version": "1"},
        "paths": paths,
        "components": {
            "securitySchemes": _SECURITY_SCHEMES,
            "responses": {
                name: {"description": text, "content": {media_type: {} for media_type in media_types}}
                for name, (text, *media_types) in _PAGE_RESPONSES.items()
            },
        },
    }


def _build_api_operations() -> Mapping[str, _Operation]:
    """Return the operations by endpoint, without those of the dashboard."""
    return {
        "webhooks.receive": {
            "summary": "Receive one event from Truto",
            "security": [{"signature": []}],
            "requestBody": {"required": True, "content": {_JSON: {"schema": _EVENT_SCHEMA}}},
            "responses": _build_webhook_responses(),
        },
        "healthz": {
            "summary": "Tell whether the process lives",
            "responses": {"200": _respond("the process lives", LivenessBody)},
        },
        "readyz": {
            "summary": "Tell whether all checks are ok",
            "responses": {
                "200": _respond("all checks are ok", ReadinessBody),
                "503": _respond("a check fails", ReadinessBody),
            },
        },
        "metrics": {
            "summary": "Return metrics for Prometheus",
            "security": [{}, {"metricsToken": []}],
            "responses": {
                "200": {"description": "the metrics", "content": {TEXT: {}, OPENMETRICS: {}}},
                "401": _respond("METRICS_TOKEN is set, and not sent", MetricsRefusal),
            },
        },
        "openapi": {
            "summary": "Return this description",
            "responses": {
                "200": {"description": "this description", "content": {_JSON: {"schema": {"type": "object"}}}}
            },
        },
        "dashboard.off": {
            "summary": "Explain how to switch the dashboard on",
            "responses": {"404": _respond_with_status("the dashboard is off", WebhookStatus.NOT_FOUND)},
        },
    }


# The members that the receiver reads may have any type, and may be absent: it stores every signed body.
_EVENT_SCHEMA = {"type": "object", "properties": {name: {} for name in (*EVENT_MEMBERS, "payload")}}


def _build_webhook_responses() -> dict[str, Any]:
    """Return the responses of a POST by HTTP status, each with the words that its body may have."""
    words: defaultdict[int, list[WebhookStatus]] = defaultdict(list)
    for status in WebhookStatus:
        if status not in _OTHER_STATUSES:
            words[status.http_status].append(status)
    return {
        str(http_status): _respond_with_status(" or ".join(statuses), *statuses)
        for http_status, statuses in sorted(words.items())
    }


def _respond_with_status(description: str, *statuses: WebhookStatus) -> dict[str, Any]:
    response = _respond(description, WebhookBody)
    response["content"][_JSON]["schema"]["properties"]["status"] = {"enum": [word.value for word in statuses]}
    return response


def _build_page_operation(rule: Rule, method: str) -> _Operation:
    """Return the operation of a page or a form of the dashboard."""
    name = rule.endpoint.partition(".")[2].replace("_", " ").capitalize()
    media_type = "*/*" if rule.endpoint in _DOWNLOADS else _HTML
    operation: _Operation = {
        "summary": f"{name} ({'page' if method == 'GET' else 'form'} of the dashboard)",
        "responses": {
            "200": {"description": "the page", "content": {media_type: {}}},
            "303": {"$ref": "#/components/responses/Redirect"},
            "4XX": {"$ref": "#/components/responses/Refusal"},
            "503": {"$ref": "#/components/responses/Unavailable"},
        },
    }
    if method == "POST":
        operation["requestBody"] = {"content": {_FORM: {"schema": _FORM_SCHEMA}}}
    if rule.arguments:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _PATH_SCHEMAS[converter]}
            for converter, name in _ARGUMENT.findall(rule.rule)
        ]
    return operation


def _format_path(rule: Rule) -> str:
    """Return a rule's path with its arguments in braces."""
    return _ARGUMENT.sub(r"{\2}", rule.rule)


def _respond(description: str, body: type[BaseModel]) -> dict[str, Any]:
    """Return a response with a JSON body that has no other members."""
    schema = {**body.model_json_schema(), "additionalProperties": False}
    return {"description": description, "content": {_JSON: {"schema": schema}}}
