"""Access to /metrics, and the rounds that requests share."""

import gevent
import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.web.metrics import register_metrics_route
from app.web.request_metrics import RequestMetrics
from app.web.shared_round import SharedRound


def open_client(token: str) -> tuple[FlaskClient, RequestMetrics]:
    app = Flask("metrics")
    metrics = RequestMetrics(None)
    register_metrics_route(app, metrics.collector, token=token)
    return app.test_client(), metrics


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer wrong", "Basic t0ken", "t0ken", "Bearer t0ken\u00e9", "bearer t0ken"],
)
def test_without_the_token_nothing_is_shown(header: str) -> None:
    client, _ = open_client("t0ken")

    response = client.get("/metrics", headers={"Authorization": header} if header else {})

    assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert b"rapidbridge_" not in response.data


def test_with_the_token_the_metrics_are_shown() -> None:
    client, metrics = open_client("t0ken")
    metrics.count_response("accepted", "")

    response = client.get("/metrics", headers={"Authorization": "Bearer t0ken"})

    assert response.status_code == 200
    assert 'rapidbridge_webhook_requests_total{cause="",status="accepted"} 1.0' in response.text


def test_without_a_token_setting_everyone_sees_the_metrics() -> None:
    client, _ = open_client("")

    assert client.get("/metrics").status_code == 200


def test_requests_at_once_share_a_round() -> None:
    rounds = iter(range(100))

    def run() -> int:
        gevent.sleep(0.01)
        return next(rounds)

    shared = SharedRound(run, shared_for_s=60)
    readers = [gevent.spawn(shared.read) for _ in range(50)]
    gevent.joinall(readers)
    assert [reader.value for reader in readers] == [0] * 50

    expired = SharedRound(run, shared_for_s=0)
    assert [expired.read() for _ in range(3)] == [1, 2, 3]


def test_a_killed_reader_does_not_end_the_round_of_the_others() -> None:
    shared = SharedRound(lambda: gevent.sleep(0.01) or "facts", shared_for_s=60)
    first, second = gevent.spawn(shared.read), gevent.spawn(shared.read)
    gevent.sleep(0)
    first.kill()

    assert second.get() == "facts"
