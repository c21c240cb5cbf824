"""The published configuration of a worker, and its comparison."""

import json
from dataclasses import replace

import pytest

from app.config.delivery_config import DeliveryConfig
from app.config.routes_file import read_routes

ROUTES = """
[sinks.main]
type = "sql"
url = "postgres://writer:{password}@warehouse/app"

[[routes]]
resource = "crm/*"
sinks = ["main"]
"""
WEBHOOK = '[[webhooks]]\nid = "w"\naccount = "a"\n'
ENDPOINT = """
[sinks.search]
type = "http"
url = "https://me:pw@example.com:9/a-path"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
headers = { X-Key = "t" }

[sinks.mine]
type = "python"
target = "m:write"
"""
LAKE = '[sinks.lake]\ntype = "files"\nurl = "file:///srv/lake"\n'


def build(
    text: str = ROUTES, *, password: str = "one", late_records: str = "deliver", to_open_run: bool = False
) -> DeliveryConfig:
    routes = read_routes(text.replace("{password}", password), source="routes.toml", variables={})
    return DeliveryConfig.build(routes, late_records=late_records, to_open_run=to_open_run)


def test_equal_routes_have_no_differences_and_one_digest() -> None:
    assert build().find_differences(build().to_json()) == []
    assert build().digest == build("# a comment\n" + ROUTES).digest


def test_the_digest_is_the_one_of_earlier_releases() -> None:
    """Else workers would leave a replay of the release before to workers that no longer exist."""
    assert build(LAKE + ROUTES + WEBHOOK).digest == "b44661ded07ebebb"


def test_a_rotated_password_is_no_difference_and_is_not_published() -> None:
    rotated = build(password="two")

    assert build().find_differences(rotated.to_json()) == []
    assert "writer" not in rotated.to_json()
    assert rotated.to_json() == build().to_json()


def test_the_login_of_a_kafka_sink_is_no_difference_but_its_place_is() -> None:
    bus = (
        '[sinks.bus]\ntype = "kafka"\nbrokers = "h:1"\nsecurity_protocol = "SASL_SSL"\nusername = "writer"\n'
        'password = "{password}"\n'
    )
    one, two = build(bus + ROUTES), build(bus + ROUTES, password="two")
    other = build(bus.replace("h:1", "h:2") + ROUTES)

    assert one.to_json() == two.to_json()
    assert one.find_differences(other.to_json()) == ["has another place for sink bus"]


def test_the_login_of_a_warehouse_is_no_difference_but_its_place_is() -> None:
    dw = (
        '[sinks.dw]\ntype = "warehouse"\ndestination = "clickhouse"\n'
        'credentials = "clickhouse://writer:{password}@h/db"\n'
    )
    one, two = build(dw + ROUTES), build(dw + ROUTES, password="two")
    other = build(dw.replace("@h", "@i") + ROUTES)

    assert one.to_json() == two.to_json()
    assert one.find_differences(other.to_json()) == ["has another place for sink dw"]


def test_a_rotated_path_or_secret_of_an_endpoint_is_no_difference_and_is_not_published() -> None:
    routes = ROUTES + ENDPOINT
    rotated = build(routes.replace("/a-path", "/b-path").replace('"t"', '"u"').replace("me:", "you:"))

    assert build(routes).find_differences(rotated.to_json()) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [("example.com", "example.org"), (":9/", ":10/"), ("https:", "http:"), ("m:write", "m:write_2")],
)
def test_another_server_or_function_is_another_place(before: str, after: str) -> None:
    moved = build((ROUTES + ENDPOINT).replace(before, after))

    [difference] = build(ROUTES + ENDPOINT).find_differences(moved.to_json())
    assert difference.startswith("has another place for sink")


@pytest.mark.parametrize(
    ("worker", "differences"),
    [
        (build(ROUTES + LAKE), ["has a further sink lake"]),
        (build(ROUTES.replace("crm/*", "hr/*")), ["has other routes or settings"]),
        (build(late_records="keep"), ["has other routes or settings"]),
        (build(to_open_run=True), ["has other routes or settings"]),
        (build(ROUTES + WEBHOOK), ["has other routes or settings"]),
        (build(ROUTES.replace("@warehouse", "@old")), ["has another place for sink main"]),
        (replace(build(), version="0.0.9"), ["is of release 0.0.9, not 0.2.0"]),
    ],
)
def test_a_difference_is_named(worker: DeliveryConfig, differences: list[str]) -> None:
    assert build().find_differences(worker.to_json()) == differences


def test_a_sink_that_a_worker_does_not_know_is_named() -> None:
    assert build(ROUTES + LAKE).find_differences(build().to_json()) == ["does not know sink lake"]


@pytest.mark.parametrize("published", ["", "{}", "[]", "null", json.dumps({"version": "1", "sinks": 3})])
def test_a_text_of_another_release_is_a_difference(published: str) -> None:
    assert build().find_differences(published) == ["is of an unknown release"]
