"""GET /metrics for Prometheus."""

import hmac
from typing import Literal

from flask import Flask, Response, jsonify, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from pydantic import BaseModel

from app.web.shared_round import SharedRound

_SHARED_FOR_S = 1.0
OPENMETRICS = "application/openmetrics-text"
TEXT = "text/plain"


class MetricsRefusal(BaseModel):
    """The JSON of a request without METRICS_TOKEN."""

    status: Literal["unauthorized"]
    message: str


def register_metrics_route(app: Flask, *collectors: Collector, token: str) -> None:
    """Add /metrics to the application. token: METRICS_TOKEN; "" serves everyone."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    expositions = {accept: _Exposition(registry, accept) for accept in (OPENMETRICS, TEXT)}
    expected = f"Bearer {token}".encode()

    @app.get("/metrics")
    def metrics() -> Response:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if token and not hmac.compare_digest(given, expected):
            response = jsonify(status="unauthorized", message="send Authorization: Bearer METRICS_TOKEN")
            response.status_code = 401
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        is_openmetrics = OPENMETRICS in request.headers.get("Accept", "")
        exposition = expositions[OPENMETRICS if is_openmetrics else TEXT]
        return Response(exposition.read(), content_type=exposition.content_type)


class _Exposition:
    """The metrics in one format, shared by the requests of a second: anyone may request them in a loop."""

    def __init__(self, registry: CollectorRegistry, accept: str) -> None:
        self._encode, self.content_type = choose_encoder(accept)
        self._registry = registry
        self._round = SharedRound(self._run, shared_for_s=_SHARED_FOR_S)

    def read(self) -> bytes:
        """Return the newest text."""
        return self._round.read()

    def _run(self) -> bytes:
        return self._encode(self._registry)
