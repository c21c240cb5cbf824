"""Kafka as the sink of a whole service: an outage of the broker, the check and an erasure."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis

from app.database.engine import open_database
from app.store.migrate import migrate
from tests.integration.test_user_sinks import Site
from tests.support.kafka import KafkaServer, TopicReader
from tests.support.waiting import wait_until

ROUTES = """
[sinks.bus]
type = "kafka"
brokers = "$ENDPOINT"

[[routes]]
sinks = ["bus"]
"""


@pytest.fixture
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    yield server
    server.stop()


@pytest.fixture
def site(tmp_path: Path, redis: Redis, redis_url: str, broker: KafkaServer) -> Iterator[Site]:
    store = open_database(f"sqlite:///{tmp_path}/store.db")
    migrate(store)
    site = Site(tmp_path, store, redis, redis_url, broker.brokers)
    (tmp_path / "routes.toml").write_text(ROUTES)
    yield site
    store.close()


def test_an_outage_of_the_broker_holds_deliveries_until_it_is_back(site: Site, broker: KafkaServer) -> None:
    broker.kill()
    with site.worker() as worker:
        site.put(30)
        wait_until(lambda: "sink.opened" in worker.log, what=lambda: worker.log)
        assert site.count_settled() == 0
        broker.start()
        wait_until(lambda: site.count_settled() == 30, timeout_s=40, what=lambda: worker.log)

    with closing(TopicReader(broker.brokers, "crm-contacts")) as reader:
        ids = {json.loads(message.value() or b"")["id"] for message in reader.read_new()}
    assert ids == {str(number) for number in range(30)}
    assert not re.search("Ada|rdkafka", worker.log)


def test_the_check_and_an_erasure_name_the_brokers_and_the_topic(site: Site, broker: KafkaServer) -> None:
    place = f"kafka://{broker.brokers}/{{resource}}"
    _, output = site.run("doctor", "--no-post")
    assert re.search(rf"sink bus\s+ok +writable +{re.escape(place)}\n", output), output

    code, output = site.run("erase", "--account", "a", "--yes")
    assert code == 1
    assert f"Not reached: sink bus: nothing was erased at {place}: Kafka cannot delete single messages" in (
        " ".join(output.split())
    )
