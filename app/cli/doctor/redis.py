"""Redis: reachable, never evicting, persistent; what waits in it, and who works."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.cli.doctor.finding import Finding, green, judge_latency, red, yellow
from app.config.settings import Settings
from app.redis.queue import MOST_JOBS, DeliveryQueue, connect
from app.redis.spool import KEY, UNREADABLE_KEY

_ROOM = "redis"
_OLDEST = (5,)
_YELLOW_SHARE, _RED_SHARE = 0.75, 0.9
_TRIES = 3
# Without the client's own message, which may quote the password.
_UNREADABLE = red(
    _ROOM,
    "reachable",
    "REDIS_URL cannot be read",
    "Correct it: write %-escapes for what is special in its password, and only options that redis-py knows.",
)


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """A Redis or Valkey as it was found. snapshots: its `save`; None where it does not say."""

    product: str
    version: tuple[int, ...]
    latency_s: float
    policy: str
    used_bytes: int
    limit_bytes: int
    is_appending: bool
    snapshots: str | None
    is_replica: bool = False


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What waits in Redis, and for whom: arrivals in the spool, jobs, living workers."""

    workers: int
    waiting_jobs: int
    failed_jobs: int
    spooled: int
    unreadable: int


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Look at Redis; raises QueueUnavailable where it fails after it had answered."""
    if not settings.redis_url:
        message = "REDIS_URL is not set: only `rapidbridge up` starts a Redis of its own"
        yield yellow(_ROOM, "reachable", message, "Set it to a Redis or Valkey that keeps its data on disk.")
        return
    if settings.redis_url.startswith("rediss:") and not settings.redis_tls_verify:
        message = "REDIS_TLS_VERIFY=0: nobody checks whose certificate it is"
        advice = "Fine on Heroku, whose Redis signs its own; elsewhere unset it."
        yield yellow(_ROOM, "tls", message, advice)
    try:
        client = connect(settings.redis_url, tls_verify=settings.redis_tls_verify)
    except ValueError:
        yield _UNREADABLE
        return
    try:
        try:
            facts = read_facts(client)
        except (RedisError, OSError) as error:
            what = f"it does not answer ({type(error).__name__})"
            advice = "See that REDIS_URL is right, with its password, and that the server is up."
            yield red(_ROOM, "reachable", what, advice)
            return
        except TypeError:
            # How the client tells of an option that it does not know.
            yield _UNREADABLE
            return
        yield green(_ROOM, "reachable", f"{facts.product} {'.'.join(map(str, facts.version))}")
        yield from judge_redis(facts)
        yield from judge_queue(_queue_facts(client))
    finally:
        client.close()


def read_facts(client: Redis) -> RedisFacts:
    """Ask Redis about itself."""
    latency_s = min(_timed(client) for _ in range(_TRIES))
    told = cast("Mapping[str, Any]", client.info())
    name = "valkey_version" if "valkey_version" in told else "redis_version"
    snapshots = None
    # Hosted ones often keep their configuration to themselves.
    with suppress(ResponseError):
        snapshots = cast("Mapping[str, str]", client.config_get("save")).get("save")
    return RedisFacts(
        product="Valkey" if name == "valkey_version" else "Redis",
        version=tuple(int(part) for part in str(told.get(name, "0")).split(".") if part.isdecimal()),
        latency_s=latency_s,
        policy=str(told.get("maxmemory_policy", "")),
        used_bytes=int(told.get("used_memory", 0)),
        limit_bytes=int(told.get("maxmemory", 0)),
        is_appending=str(told.get("aof_enabled", "0")) == "1",
        snapshots=snapshots,
        is_replica=told.get("role") == "slave",
    )


def _timed(client: Redis) -> float:
    started = time.monotonic()
    client.ping()
    return time.monotonic() - started


def _queue_facts(client: Redis) -> QueueFacts:
    queue = DeliveryQueue(client)
    waiting, failed = queue.count_jobs()
    return QueueFacts(
        queue.count_workers(), waiting, failed, int(client.xlen(KEY)), int(client.xlen(UNREADABLE_KEY))
    )


def judge_redis(facts: RedisFacts) -> Iterator[Finding]:
    """Say what is wrong with a Redis that answers."""
    if facts.version < _OLDEST:
        yield red(_ROOM, "version", f"{facts.product} is too old", "Use Redis 5 or later, or Valkey.")
    if facts.is_replica:
        yield red(_ROOM, "writable", "it is a replica and takes no writes", "Point REDIS_URL at the primary.")
    yield judge_latency(_ROOM, facts.latency_s)
    yield _judge_policy(facts.policy)
    yield _judge_memory(facts)
    yield _judge_persistence(facts)


def _judge_policy(policy: str) -> Finding:
    if policy == "noeviction":
        return green(_ROOM, "eviction", "maxmemory-policy noeviction")
    advice = "Set maxmemory-policy to noeviction (on Heroku: heroku redis:maxmemory --policy noeviction)."
    message = f"maxmemory-policy {policy or 'unknown'}"
    if policy.startswith("allkeys"):
        return red(_ROOM, "eviction", f"{message}: when full, it throws deliveries away", advice)
    return yellow(_ROOM, "eviction", message, advice)


def _judge_memory(facts: RedisFacts) -> Finding:
    used = f"{facts.used_bytes / 2**20:,.0f} MiB are used"
    if not facts.limit_bytes:
        return green(_ROOM, "memory", f"{used}, without a limit")
    share = facts.used_bytes / facts.limit_bytes
    message = f"{used} of {facts.limit_bytes / 2**20:,.0f} ({share:.0%})"
    advice = "Give it more memory: when it is full, nothing can be spooled and no worker woken."
    if share >= _RED_SHARE:
        return red(_ROOM, "memory", message, advice)
    return (
        yellow(_ROOM, "memory", message, advice)
        if share >= _YELLOW_SHARE
        else green(_ROOM, "memory", message)
    )


def _judge_persistence(facts: RedisFacts) -> Finding:
    if facts.is_appending:
        return green(_ROOM, "persistence", "appendonly yes")
    advice = "Set appendonly yes: deliveries wait in Redis while the database is away."
    if facts.snapshots:
        message = "snapshots alone: what is spooled since the last one is lost when it restarts"
        return yellow(_ROOM, "persistence", message, advice)
    if facts.snapshots is None:
        message = "no appendonly, and it does not say whether it takes snapshots"
        return yellow(_ROOM, "persistence", message, advice)
    return yellow(_ROOM, "persistence", "none: what is spooled is lost when it restarts", advice)


def judge_queue(facts: QueueFacts) -> Iterator[Finding]:
    """Say whether somebody works, and whether too much waits."""
    if facts.spooled:
        message = f"{facts.spooled:,} deliveries wait in Redis for the store"
        yield yellow(_ROOM, "spool", message, "Mend the store; rapidbridge worker then moves them there.")
    else:
        yield green(_ROOM, "spool", "no delivery waits in Redis for the store")
    if facts.unreadable:
        message = f"{facts.unreadable:,} deliveries in {UNREADABLE_KEY} could not be read back"
        yield yellow(_ROOM, "unreadable", message, f"Look at them with XRANGE {UNREADABLE_KEY} - +.")
    if facts.workers:
        yield green("workers", "alive", f"{facts.workers} alive")
    else:
        yield red("workers", "alive", "none is alive: nothing reaches the sinks", "Start: rapidbridge worker")
    jobs = f"{facts.waiting_jobs:,} jobs wait, {facts.failed_jobs:,} failed within the last hour"
    if facts.failed_jobs:
        advice = "See the workers' log. Their deliveries are taken up again by themselves."
        yield yellow("workers", "jobs", jobs, advice)
    elif facts.waiting_jobs >= MOST_JOBS:
        yield yellow("workers", "jobs", jobs, "Start more workers, or wait: the rest stays in the store.")
    else:
        yield green("workers", "jobs", jobs)
