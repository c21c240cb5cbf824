"""Connections to Redis: timeouts, replacement after a failover, and the diagnosis of errors."""

import re
import socket
import ssl
from collections.abc import Callable
from typing import Any

from redis import ConnectionPool, Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import (
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from app.errors import QueueUnavailable

_TIMEOUT_S = 2.0


class DemotedServer(RedisConnectionError):
    """The server became a replica. Its connections stay open, so each counts as broken."""


class _FailoverRetry(Retry):
    """Retries once with a new connection, also if the server answers that it is a replica now.

    redis-py keeps such a connection. As an error of the connection, it reaches every caller's handling of
    broken connections, that of RQ included.
    """

    # Set once the pool exists.
    pool: ConnectionPool | None = None

    def __deepcopy__(self, _memo: object) -> "_FailoverRetry":
        # Each connection copies its pool's retry, and must find the pool.
        return self

    def call_with_retry(self, do: Callable[[], Any], *arguments: Any, **options: Any) -> Any:
        def do_or_disconnect() -> Any:
            try:
                return do()
            except ResponseError as error:
                if not _is_demoted(error):
                    raise
                if self.pool is not None:
                    # The idle connections lead to the same server.
                    self.pool.disconnect(inuse_connections=False)
                raise DemotedServer("the server is a replica") from error

        return super().call_with_retry(do_or_disconnect, *arguments, **options)


def _is_demoted(error: ResponseError) -> bool:
    # UNBLOCKED ends a blocking command when the server becomes a replica.
    return isinstance(error, ReadOnlyError | MasterDownError) or str(error).startswith("UNBLOCKED")


def is_wrong_type(error: object) -> bool:
    """Whether Redis refused a command because the key has another type."""
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def connect_redis(url: str, *, tls_verify: bool) -> Redis:
    """Prepare a connection pool with timeouts of 2 s, unless the URL sets others.

    url: redis://…, rediss://… or unix://…. tls_verify: False accepts a self-signed certificate.
    """
    options: dict[str, Any] = {} if tls_verify or not url.startswith("rediss:") else {"ssl_cert_reqs": "none"}
    # The client's default of ten retries outlasts every request. One retry covers pooled connections that
    # died while idle, and enqueuing an id twice is harmless. A timeout is not retried.
    retry = _FailoverRetry(ConstantBackoff(0.1), 1, supported_errors=(RedisConnectionError,))
    client = Redis.from_url(
        url, socket_connect_timeout=_TIMEOUT_S, socket_timeout=_TIMEOUT_S, retry=retry, **options
    )
    retry.pool = client.connection_pool
    return client


def queue_unavailable(error: RedisError) -> QueueUnavailable:
    """Return the error to raise for an error of Redis, with its diagnosis."""
    problem, advice = diagnose_redis(error)
    return QueueUnavailable(f"Redis failed: {problem}; {advice}")


def diagnose_redis(error: Exception) -> tuple[str, str]:
    """Return the problem behind an error of Redis, and the next step. Neither quotes the URL or a key."""
    faults = _list_faults(error)
    for fault in faults:
        if isinstance(fault, ssl.SSLCertVerificationError) and fault.verify_code in _BY_CERTIFICATE:
            return _BY_CERTIFICATE[fault.verify_code]
    for fault in faults:
        if isinstance(fault, NoPermissionError):
            return _diagnose_missing_right(str(fault))
    for types, problem, advice in _BY_TYPE:
        if any(isinstance(fault, types) for fault in faults):
            return problem, advice
    text = " ".join(map(str, faults)).lower()
    if "connecting to /" not in text and any(isinstance(fault, FileNotFoundError) for fault in faults):
        return _NO_FILE
    for marks, problem, advice in _BY_TEXT:
        if any(mark in text for mark in marks):
            return problem, advice
    return f"it answered with {type(error).__name__}", "check REDIS_URL, and read the log of Redis"


def _diagnose_missing_right(message: str) -> tuple[str, str]:
    """Return the problem and the advice for a user with too few rights. message: of the server."""
    grant = "grant it, with the name of the user: redis-cli ACL SETUSER USER"
    if command := re.search(r"run the '([a-z|-]+)' command", message, re.IGNORECASE):
        name = command[1].lower()
        return f"its user lacks the right to the command {name} (NOPERM)", f"{grant} '+{name}'"
    if "channel" in message:
        return "its user lacks the right to a channel (NOPERM)", f"{grant} '&rq:pubsub:*'"
    return "its user lacks the right to a key (NOPERM)", f"{grant} '~rapidbridge:*' '~rq:*'"


def _list_faults(error: BaseException | None) -> list[BaseException]:
    """Return an error and its causes. A retried error may be its own cause in the end."""
    faults: list[BaseException] = []
    while error is not None and error not in faults:
        faults.append(error)
        error = error.__cause__ or error.__context__
    return faults


_SELF_SIGNED = (
    "its TLS certificate is self-signed and cannot be verified",
    "set REDIS_TLS_VERIFY=0 (on Heroku: heroku config:set REDIS_TLS_VERIFY=0), or name its authority with "
    "ssl_ca_certs in REDIS_URL",
)
# Not the socket of a server.
_NO_FILE = (
    "there is no file at a path in REDIS_URL",
    "correct ssl_ca_certs, ssl_certfile or ssl_keyfile in REDIS_URL",
)
_OTHER_HOST = (
    "its TLS certificate is for another host",
    "write the host in REDIS_URL as the certificate names it",
)
# Python refuses such certificates since 3.13.
_INCOMPLETE = (
    "its TLS certificate, or that of its authority, lacks an extension of RFC 5280",
    "renew it with keyUsage, subjectKeyIdentifier and authorityKeyIdentifier, or run Python 3.12",
)
# By the codes of OpenSSL: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_BY_CERTIFICATE = {
    9: ("its TLS certificate is not valid yet", "check the clocks of both machines"),
    10: ("its TLS certificate has expired", "renew it at the server"),
    18: _SELF_SIGNED,
    19: _SELF_SIGNED,
    62: _OTHER_HOST,
    64: _OTHER_HOST,
    85: _INCOMPLETE,
    86: _INCOMPLETE,
    92: _INCOMPLETE,
}
_NO_CLUSTER = "it is a Redis Cluster, which is not supported"
_BY_TYPE: tuple[tuple[tuple[type[BaseException], ...], str, str], ...] = (
    (
        (ssl.SSLCertVerificationError,),
        "its TLS certificate cannot be verified",
        "name the file of its authority in REDIS_URL: rediss://…?ssl_ca_certs=FILE",
    ),
    (
        (MovedError, ClusterCrossSlotError),
        _NO_CLUSTER,
        "set REDIS_URL to a single server (cluster-enabled no)",
    ),
    (
        (ReadOnlyError, MasterDownError, DemotedServer),
        "the server is a replica and accepts no writes",
        "point REDIS_URL to the primary server",
    ),
    ((ClusterDownError,), _NO_CLUSTER, "set REDIS_URL to a single server (cluster-enabled no)"),
    ((BusyLoadingError,), "it is starting and loads its data", "wait until it has started"),
    (
        (OutOfMemoryError,),
        "its memory is full",
        "give it more memory: raise maxmemory, or delete data of other programs",
    ),
    (
        (AuthenticationWrongNumberOfArgsError,),
        "the server knows no users",
        "remove the user from REDIS_URL and keep the password, as redis://:PASSWORD@HOST",
    ),
    (
        (socket.gaierror,),
        "no such host",
        "correct the host in REDIS_URL",
    ),
    (
        (RedisTimeoutError, TimeoutError),
        "no answer in time",
        "check the host and the port in REDIS_URL, whether the server requires TLS (rediss://), and its load",
    ),
)
_BY_TEXT: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("wrong_version_number", "wrong version number", "record layer failure", "unexpected_message"),
        "REDIS_URL begins with rediss://, and the server speaks no TLS",
        "use redis:// in REDIS_URL, or the server's port for TLS",
    ),
    (
        ("no_certificate_or_crl_found",),
        "the file in ssl_ca_certs contains no certificate",
        "correct ssl_ca_certs in REDIS_URL; it names a file with PEM certificates",
    ),
    (
        ("ssl", "tls"),
        "the TLS handshake failed",
        "check the port and the TLS parameters in REDIS_URL",
    ),
    (
        ("without any password configured", "no password is set"),
        "REDIS_URL has a password, and the server requires none",
        "remove the password from REDIS_URL",
    ),
    (
        ("authentication required", "hello must be called", "noauth"),
        "the server requires a password, and REDIS_URL has none",
        "add it to REDIS_URL, as redis://:PASSWORD@HOST",
    ),
    (
        ("invalid username-password", "invalid password", "wrongpass"),
        "wrong user or password",
        "correct them in REDIS_URL",
    ),
    (
        ("name or service not known", "name resolution", "nodename nor servname"),
        "no such host",
        "correct the host in REDIS_URL",
    ),
    (
        ("refused", "no such file"),
        "no server listens there",
        "start it, or correct the host and the port in REDIS_URL",
    ),
    (
        ("timed out", "timeout", "no route to host", "unreachable"),
        "no answer in time",
        "check the host and the port in REDIS_URL, and the firewall between both",
    ),
    (
        ("wrongtype",),
        "a key of the receiver has a value of another type",
        "keep `rapidbridge worker` running, which deletes the key; find the program that wrote it",
    ),
    (
        ("max number of clients",),
        "no connection is free",
        "raise maxclients, or end other clients",
    ),
    (
        ("misconf", "unable to persist"),
        "it cannot save its data to the disk",
        "free space on its disk, and read the log of Redis",
    ),
    (
        ("noreplicas",),
        "too few replicas follow it (min-replicas-to-write)",
        "start the replicas, or lower min-replicas-to-write",
    ),
    (
        ("db index is out of range", "invalid database"),
        "there is no database of that number",
        "correct the number at the end of REDIS_URL",
    ),
    (
        ("permission denied",),
        "this process may not use the server's socket",
        "open the socket's folder to it (unixsocketperm)",
    ),
    (
        ("closed by server", "connection closed", "reset by peer", "broken pipe", "protocol error"),
        "the server closed the connection",
        "check that Redis is up; if it requires TLS, use rediss:// in REDIS_URL",
    ),
)
