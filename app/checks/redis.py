"""Redis: reachable, never evicting, persistent; what waits in it, and who works."""

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.checks.check_result import CheckResult, evaluate_latency, fail, ok, warn
from app.config.settings import Settings
from app.redis.queue import MAX_JOBS, DeliveryQueue, connect_redis
from app.redis.spool import KEY, UNREADABLE_KEY

_COMPONENT = "redis"
_MIN_VERSION = (5,)
_WARN_SHARE, _FAIL_SHARE = 0.75, 0.9
_LATENCY_SAMPLES = 3
# Without the client's own message, which may quote the password.
_UNREADABLE_URL = fail(
    _COMPONENT,
    "reachable",
    "REDIS_URL cannot be read",
    "Correct it: write %-escapes for what is special in its password, and only options that redis-py knows.",
)


@dataclass(frozen=True, slots=True)
class RedisInfo:
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
class QueueInfo:
    """What waits in Redis, and for whom: arrivals in the spool, jobs, living workers."""

    workers: int
    waiting_jobs: int
    failed_jobs: int
    spooled: int
    unreadable: int


def check_redis(settings: Settings) -> Iterator[CheckResult]:
    """Look at Redis; raises QueueUnavailable where it fails after it had answered."""
    if not settings.redis_url:
        message = "REDIS_URL is not set: only `rapidbridge up` starts a Redis of its own"
        yield warn(
            _COMPONENT, "reachable", message, "Set it to a Redis or Valkey that keeps its data on disk."
        )
        return
    if settings.redis_url.startswith("rediss:") and not settings.redis_tls_verify:
        message = "REDIS_TLS_VERIFY=0: nobody checks whose certificate it is"
        advice = "Fine on Heroku, whose Redis signs its own; elsewhere unset it."
        yield warn(_COMPONENT, "tls", message, advice)
    try:
        client = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    except ValueError:
        yield _UNREADABLE_URL
        return
    try:
        try:
            info = read_redis_info(client)
        except (RedisError, OSError) as error:
            message = f"it does not answer ({type(error).__name__})"
            advice = "See that REDIS_URL is right, with its password, and that the server is up."
            yield fail(_COMPONENT, "reachable", message, advice)
            return
        except TypeError:
            # How the client tells of an option that it does not know.
            yield _UNREADABLE_URL
            return
        yield ok(_COMPONENT, "reachable", f"{info.product} {'.'.join(map(str, info.version))}")
        yield from evaluate_redis(info)
        yield from evaluate_queue(_read_queue_info(client))
    finally:
        client.close()


def read_redis_info(client: Redis) -> RedisInfo:
    """Ask Redis about itself."""
    latency_s = min(_measure_ping_s(client) for _ in range(_LATENCY_SAMPLES))
    info = cast("Mapping[str, Any]", client.info())
    name = "valkey_version" if "valkey_version" in info else "redis_version"
    snapshots = None
    # Hosted ones often keep their configuration to themselves.
    with suppress(ResponseError):
        snapshots = cast("Mapping[str, str]", client.config_get("save")).get("save")
    return RedisInfo(
        product="Valkey" if name == "valkey_version" else "Redis",
        version=tuple(int(part) for part in str(info.get(name, "0")).split(".") if part.isdecimal()),
        latency_s=latency_s,
        policy=str(info.get("maxmemory_policy", "")),
        used_bytes=int(info.get("used_memory", 0)),
        limit_bytes=int(info.get("maxmemory", 0)),
        is_appending=str(info.get("aof_enabled", "0")) == "1",
        snapshots=snapshots,
        is_replica=info.get("role") == "slave",
    )


def _measure_ping_s(client: Redis) -> float:
    started = time.monotonic()
    client.ping()
    return time.monotonic() - started


def _read_queue_info(client: Redis) -> QueueInfo:
    queue = DeliveryQueue(client)
    waiting, failed = queue.count_jobs()
    return QueueInfo(
        queue.count_workers(), waiting, failed, int(client.xlen(KEY)), int(client.xlen(UNREADABLE_KEY))
    )


def evaluate_redis(info: RedisInfo) -> Iterator[CheckResult]:
    """Say what is wrong with a Redis that answers."""
    if info.version < _MIN_VERSION:
        yield fail(_COMPONENT, "version", f"{info.product} is too old", "Use Redis 5 or later, or Valkey.")
    if info.is_replica:
        yield fail(
            _COMPONENT, "writable", "it is a replica and takes no writes", "Point REDIS_URL at the primary."
        )
    yield evaluate_latency(_COMPONENT, info.latency_s)
    yield _evaluate_policy(info.policy)
    yield _evaluate_memory(info)
    yield _evaluate_persistence(info)


def _evaluate_policy(policy: str) -> CheckResult:
    if policy == "noeviction":
        return ok(_COMPONENT, "eviction", "maxmemory-policy noeviction")
    advice = "Set maxmemory-policy to noeviction (on Heroku: heroku redis:maxmemory --policy noeviction)."
    message = f"maxmemory-policy {policy or 'unknown'}"
    if policy.startswith("allkeys"):
        return fail(_COMPONENT, "eviction", f"{message}: when full, it throws deliveries away", advice)
    return warn(_COMPONENT, "eviction", message, advice)


def _evaluate_memory(info: RedisInfo) -> CheckResult:
    used = f"{info.used_bytes / 2**20:,.0f} MiB are used"
    if not info.limit_bytes:
        return ok(_COMPONENT, "memory", f"{used}, without a limit")
    share = info.used_bytes / info.limit_bytes
    message = f"{used} of {info.limit_bytes / 2**20:,.0f} ({share:.0%})"
    advice = "Give it more memory: when it is full, nothing can be spooled and no worker woken."
    if share >= _FAIL_SHARE:
        return fail(_COMPONENT, "memory", message, advice)
    return (
        warn(_COMPONENT, "memory", message, advice)
        if share >= _WARN_SHARE
        else ok(_COMPONENT, "memory", message)
    )


def _evaluate_persistence(info: RedisInfo) -> CheckResult:
    if info.is_appending:
        return ok(_COMPONENT, "persistence", "appendonly yes")
    advice = "Set appendonly yes: deliveries wait in Redis while the database is away."
    if info.snapshots:
        message = "snapshots alone: what is spooled since the last one is lost when it restarts"
        return warn(_COMPONENT, "persistence", message, advice)
    if info.snapshots is None:
        message = "no appendonly, and it does not say whether it takes snapshots"
        return warn(_COMPONENT, "persistence", message, advice)
    return warn(_COMPONENT, "persistence", "none: what is spooled is lost when it restarts", advice)


def evaluate_queue(info: QueueInfo) -> Iterator[CheckResult]:
    """Say whether somebody works, and whether too much waits."""
    if info.spooled:
        message = f"{info.spooled:,} deliveries wait in Redis for the store"
        yield warn(_COMPONENT, "spool", message, "Mend the store; rapidbridge worker then moves them there.")
    else:
        yield ok(_COMPONENT, "spool", "no delivery waits in Redis for the store")
    if info.unreadable:
        message = f"{info.unreadable:,} deliveries in {UNREADABLE_KEY} could not be read back"
        yield warn(_COMPONENT, "unreadable", message, f"Look at them with XRANGE {UNREADABLE_KEY} - +.")
    if info.workers:
        yield ok("workers", "alive", f"{info.workers} alive")
    else:
        yield fail(
            "workers", "alive", "none is alive: nothing reaches the sinks", "Start: rapidbridge worker"
        )
    jobs = f"{info.waiting_jobs:,} jobs wait, {info.failed_jobs:,} failed within the last hour"
    if info.failed_jobs:
        advice = "See the workers' log. Their deliveries are taken up again by themselves."
        yield warn("workers", "jobs", jobs, advice)
    elif info.waiting_jobs >= MAX_JOBS:
        yield warn("workers", "jobs", jobs, "Start more workers, or wait: the rest stays in the store.")
    else:
        yield ok("workers", "jobs", jobs)
