"""Checks of Redis, its spool and job queue, and the workers."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from app.checks.check_result import NOT_CHECKED, CheckResult, evaluate_latency, fail, ok, warn
from app.config.settings import Settings
from app.errors import QueueUnavailable
from app.plural import format_count
from app.redis.connection import connect_redis, diagnose_redis
from app.redis.other_receivers import OtherReceiver, find_other_receivers
from app.redis.queue import MAX_JOBS, UNNAMED, DeliveryQueue
from app.redis.spool import Spool

_COMPONENT = "redis"
_MIN_VERSION = (5,)
_WARN_SHARE, _FAIL_SHARE = 0.75, 0.9
_LATENCY_SAMPLES = 3


@dataclass(frozen=True, slots=True)
class RedisInfo:
    """Configuration and state of a Redis or Valkey server.

    policy: maxmemory-policy; "" if the server hides it. limit_bytes: 0 for no limit. snapshots: the setting
    `save`; None if the server hides it. is_hidden: the user may not run INFO, so only latency_s is known.
    """

    product: str
    version: tuple[int, ...]
    latency_s: float
    policy: str
    used_bytes: int
    limit_bytes: int
    is_appending: bool
    snapshots: str | None
    is_replica: bool = False
    is_cluster: bool = False
    is_hidden: bool = False

    @property
    def name(self) -> str:
        """The product and its version, if it is known."""
        return f"{self.product} {'.'.join(map(str, self.version))}".strip()


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """Numbers of live workers, jobs, and deliveries in the spool. failed_jobs: in the last hour.

    unreadable: entries that could not be moved from the spool.
    """

    workers: int
    waiting_jobs: int
    failed_jobs: int
    spooled: int
    unreadable: int
    namespace: str


def check_redis(settings: Settings, *, are_workers_expected: bool = True) -> Iterator[CheckResult]:
    """Check the server, the spool, the queue and the workers.

    are_workers_expected: whether it is a failure if no worker is alive.
    """
    if not settings.redis_url:
        message = "REDIS_URL is not set: only `rapidbridge up` starts a Redis of its own"
        advice = "Set REDIS_URL to a Redis or Valkey server that keeps its data on disk."
        yield warn(_COMPONENT, "reachable", message, advice)
        return
    client = connect_redis(settings.redis_url, tls_verify=settings.redis_tls_verify)
    try:
        info = read_redis_info(client)
        yield ok(_COMPONENT, "reachable", info.name)
        yield from evaluate_redis(info)
        yield from evaluate_namespaces(settings.namespace, find_other_receivers(client, settings.namespace))
        yield from evaluate_queue(
            _read_queue_info(client, settings.namespace), are_workers_expected=are_workers_expected
        )
    except (RedisError, OSError, QueueUnavailable) as error:
        problem, advice = diagnose_redis(error)
        yield fail(_COMPONENT, "reachable", f"Redis failed: {problem}", f"{advice[0].upper()}{advice[1:]}")
    finally:
        client.close()


def read_redis_info(client: Redis) -> RedisInfo:
    """Read a server's configuration and state; raises RedisError or OSError."""
    latency_s = min(_measure_ping_s(client) for _ in range(_LATENCY_SAMPLES))
    try:
        info = cast("Mapping[str, Any]", client.info())
    except ResponseError:
        # A user with few rights may not run INFO, which the receiver does not need.
        return RedisInfo(
            "Redis",
            (),
            latency_s,
            policy="",
            used_bytes=0,
            limit_bytes=0,
            is_appending=False,
            snapshots=None,
            is_hidden=True,
        )
    name = "valkey_version" if "valkey_version" in info else "redis_version"
    snapshots = None
    # Hosted servers often forbid CONFIG.
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
        is_cluster=str(info.get("cluster_enabled", "0")) == "1",
    )


def _measure_ping_s(client: Redis) -> float:
    started = time.monotonic()
    client.ping()
    return time.monotonic() - started


def _read_queue_info(client: Redis, namespace: str) -> QueueInfo:
    queue, spool = DeliveryQueue(client, namespace), Spool(client, namespace)
    waiting, failed = queue.count_jobs()
    return QueueInfo(
        queue.count_workers(), waiting, failed, spool.count(), spool.count_unreadable(), namespace
    )


def evaluate_redis(info: RedisInfo) -> Iterator[CheckResult]:
    """Yield the results for a Redis that responds."""
    if info.is_hidden:
        yield evaluate_latency(_COMPONENT, info.latency_s)
        message = "its user may not run INFO: version, memory, eviction and persistence are not checked"
        advice = "Allow it, with the name of the user: redis-cli ACL SETUSER USER +info '+config|get'"
        yield warn(_COMPONENT, "details", message, advice)
        return
    if info.is_cluster:
        message = "the server is part of a Redis Cluster, which is not supported"
        advice = "Set REDIS_URL to a single server (cluster-enabled no)."
        yield fail(_COMPONENT, "cluster", message, advice)
    if info.version < _MIN_VERSION:
        yield fail(_COMPONENT, "version", f"{info.product} is too old", "Use Redis 5 or later, or Valkey.")
    if info.is_replica:
        message = "the server is a replica and accepts no writes"
        yield fail(_COMPONENT, "writable", message, "Point REDIS_URL to the primary server.")
    yield evaluate_latency(_COMPONENT, info.latency_s)
    yield _evaluate_policy(info.policy)
    yield _evaluate_memory(info)
    yield _evaluate_persistence(info)


def _evaluate_policy(policy: str) -> CheckResult:
    if policy == "noeviction":
        return ok(_COMPONENT, "eviction", "maxmemory-policy noeviction")
    advice = (
        "Run: redis-cli CONFIG SET maxmemory-policy noeviction (on Heroku: heroku redis:maxmemory --policy "
        "noeviction)."
    )
    message = f"maxmemory-policy {policy or 'unknown'}"
    if policy.startswith("allkeys"):
        return fail(_COMPONENT, "eviction", f"{message}: a full Redis deletes deliveries", advice)
    return warn(_COMPONENT, "eviction", message, advice)


def _evaluate_memory(info: RedisInfo) -> CheckResult:
    used = f"{info.used_bytes / 2**20:,.0f} MiB"
    if not info.limit_bytes:
        return ok(_COMPONENT, "memory", f"{used} used, no limit")
    share = info.used_bytes / info.limit_bytes
    message = f"{used} of {info.limit_bytes / 2**20:,.0f} MiB used ({share:.0%})"
    advice = (
        "A full Redis can neither spool deliveries nor queue jobs. If its machine has more memory, run: "
        f"redis-cli CONFIG SET maxmemory {2 * info.limit_bytes}"
    )
    if share >= _FAIL_SHARE:
        return fail(_COMPONENT, "memory", message, advice)
    if share >= _WARN_SHARE:
        return warn(_COMPONENT, "memory", message, advice)
    return ok(_COMPONENT, "memory", message)


def _evaluate_persistence(info: RedisInfo) -> CheckResult:
    if info.is_appending:
        return ok(_COMPONENT, "persistence", "appendonly yes")
    advice = (
        "Redis holds deliveries while the database is unreachable. Run: redis-cli CONFIG SET appendonly yes"
    )
    if info.snapshots:
        message = "only snapshots: a restart loses deliveries spooled since the last one"
        return warn(_COMPONENT, "persistence", message, advice)
    if info.snapshots is None:
        message = "appendonly is off, and the server hides whether it takes snapshots"
        return warn(_COMPONENT, "persistence", message, advice)
    return warn(_COMPONENT, "persistence", "no persistence: a restart loses spooled deliveries", advice)


def evaluate_namespaces(namespace: str, others: Sequence[OtherReceiver]) -> Iterator[CheckResult]:
    """Yield who else uses this Redis, and a warning for each spool that no worker empties."""
    names = [
        f"{other.name} ({format_count(other.workers, 'worker')}, {other.spooled:,} in its spool)"
        for other in others
    ]
    shared = f"shared with {', '.join(names)}" if names else "no other receiver uses this Redis"
    yield ok(_COMPONENT, "namespace", f"{namespace}; {shared}")
    for other in others:
        if other.unreadable and other.namespace == UNNAMED:
            yield _warn_unreadable(other.unreadable, other.adopt_command)
        if not other.is_stranded:
            continue
        verb = "waits" if other.spooled == 1 else "wait"
        waiting = f"{_count_deliveries(other.spooled)} {verb}"
        message = f"{waiting} in the spool of {other.name}, which has no live worker"
        advice = (
            f"If {other.name} is another receiver, start its worker. If it is this one, because DATABASE_URL "
            f"or REDIS_NAMESPACE has changed or the release is new: {other.adopt_command}"
        )
        yield warn(_COMPONENT, "stranded", message, advice)


def evaluate_queue(info: QueueInfo, *, are_workers_expected: bool = True) -> Iterator[CheckResult]:
    """Yield the results for the spool, the workers and the job queue."""
    if info.spooled:
        message = f"{_count_deliveries(info.spooled)} in the spool, not yet in the store"
        advice = (
            "Repair the store and keep `rapidbridge worker` running, with TRUTO_WEBHOOK_SECRET: it verifies "
            "the spool and moves it to the store."
        )
        yield warn(_COMPONENT, "spool", message, advice)
    else:
        yield ok(_COMPONENT, "spool", "the spool is empty")
    if info.unreadable:
        yield _warn_unreadable(info.unreadable, f"rapidbridge migrate --adopt-spool {info.namespace}")
    if info.workers:
        yield ok("workers", "alive", f"{format_count(info.workers, 'worker')} alive")
    elif not are_workers_expected:
        advice = "Once the workers are started, run: rapidbridge doctor"
        yield warn("workers", "alive", f"{NOT_CHECKED}no worker is alive yet", advice)
    else:
        message = "no worker is alive: no delivery reaches the sinks"
        yield fail("workers", "alive", message, "Run: rapidbridge worker")
    jobs = f"{format_count(info.waiting_jobs, 'job')} waiting, {info.failed_jobs:,} failed in the last hour"
    if info.failed_jobs:
        advice = (
            "The deliveries are retried automatically. Read the workers' log; to see them, run: rapidbridge "
            "deliveries list --state pending"
        )
        yield warn("workers", "jobs", jobs, advice)
    elif info.waiting_jobs >= MAX_JOBS:
        advice = "Start more workers, or wait: further deliveries stay in the store until the queue drains."
        yield warn("workers", "jobs", jobs, advice)
    else:
        yield ok("workers", "jobs", jobs)


def _warn_unreadable(number: int, adopt_command: str) -> CheckResult:
    message = f"{_count_deliveries(number)} set aside: unreadable, or not signed with TRUTO_WEBHOOK_SECRET"
    advice = (
        "If a secret was removed from TRUTO_WEBHOOK_SECRET, add it again for the workers too. "
        f"Then move them to the store: {adopt_command}"
    )
    return warn(_COMPONENT, "unreadable", message, advice)


def _count_deliveries(number: int) -> str:
    return format_count(number, "delivery")
