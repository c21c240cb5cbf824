"""The queue and the spool of the receiver with a given database."""

from redis import Redis

from app.config.database_identity import derive_namespace
from app.config.settings import read_settings
from app.database.engine import Database
from app.redis.queue import DeliveryQueue
from app.redis.spool import Spool
from tests.support.web_process import SECRET


def namespace_of(store: Database) -> str:
    """Return the namespace that processes derive from this database's URL."""
    return derive_namespace(store.engine.url.render_as_string(hide_password=False))


def open_queue(redis: Redis, store: Database) -> DeliveryQueue:
    return DeliveryQueue(redis, namespace_of(store))


def open_spool(redis: Redis, store: Database) -> Spool:
    return Spool(redis, namespace_of(store), read_settings({"TRUTO_WEBHOOK_SECRET": SECRET}))
