"""HTTP requests to other servers, bounded in time and size whatever the server sends.

httpx's own timeouts hold for each read: a server that sends one byte a second would keep a request for ever.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from app.public_address import is_metadata_address, is_public_address

# At the level "info" it logs URLs, which may be secrets.
logging.getLogger("httpx").setLevel(logging.WARNING)

# One slice may be sent in several steps, each of which may take the remaining time.
_MAX_SLICE_BYTES = 16384


class ResponseTooLarge(httpx.DecodingError):
    """A response longer than its limit, or compressed although no compression was accepted.

    response: its status and headers; its body is not read.
    """

    def __init__(self, message: str, response: httpx.Response) -> None:
        super().__init__(message)
        self.response = response
        self.http_status = response.status_code


class PrivateAddress(httpx.ConnectError):
    """A host without an address that may be connected to. The message is a predicate: "has no …; set …"."""


class _Deadline(threading.local):
    """The end of the current thread's request, by the monotonic clock; None outside of one."""

    at_s: float | None = None


_deadline = _Deadline()


def open_http_client(*, allow_private: bool, **options: Any) -> httpx.Client:
    """Return a client whose requests `send` can interrupt. options: httpx.Client's.

    allow_private: connect to addresses outside of the public internet too, and through the proxies of the
    environment. Otherwise such an address raises PrivateAddress, whatever a name resolves to. Link-local
    addresses and the metadata services of clouds always raise it.
    """
    if not allow_private:
        # Of a request through a proxy, only the proxy's address would be checked.
        options["transport"] = httpx.HTTPTransport()
    client = httpx.Client(**options)
    # The limit has to hold in every read and write, and httpx offers no other place for it.
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _Backend(allow_private=allow_private)
    return client


def send(
    client: httpx.Client, method: str, url: str, *, timeout_s: float, max_bytes: int | None, **options: Any
) -> httpx.Response:
    """Send a request and return the response with its whole body. Redirects are not followed.

    client: from `open_http_client`. timeout_s: for all of the request, connecting to any number of addresses
    included; resolving the host's name has the timeout of the operating system. max_bytes: of the body; None
    leaves the body unread. options: httpx's `params`, `json`, `content` or `headers`.
    Raises httpx.TimeoutException, ResponseTooLarge, PrivateAddress and other errors of httpx.
    """
    # A few kilobytes of gzip may stand for gigabytes.
    headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
    with (
        _limit_time(timeout_s),
        client.stream(
            method, url, headers=headers, timeout=timeout_s, follow_redirects=False, **options
        ) as response,
    ):
        body = b"" if max_bytes is None else _read_body(response, max_bytes)
        return httpx.Response(
            response.status_code, headers=response.headers, content=body, request=response.request
        )


@contextmanager
def _limit_time(timeout_s: float) -> Iterator[None]:
    _deadline.at_s = time.monotonic() + timeout_s
    try:
        yield
    finally:
        _deadline.at_s = None


def _read_body(response: httpx.Response, max_bytes: int) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ResponseTooLarge("the response is compressed although no compression was accepted", response)
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > max_bytes:
            raise ResponseTooLarge(f"the response is longer than {max_bytes:,} bytes", response)
    return bytes(body)


def _limit(timeout_s: float | None, error: type[Exception]) -> float | None:
    """Return the timeout of one read or write; raises `error` after the deadline."""
    if _deadline.at_s is None:
        return timeout_s
    remaining_s = _deadline.at_s - time.monotonic()
    if remaining_s <= 0:
        raise error("the request took too long")
    return remaining_s if timeout_s is None else min(timeout_s, remaining_s)


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes end at the deadline."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _limit(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _MAX_SLICE_BYTES):
            self._stream.write(
                buffer[start : start + _MAX_SLICE_BYTES], _limit(timeout, httpcore.WriteTimeout)
            )

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream":
        limit_s = _limit(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, limit_s))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Opens connections whose reads and writes end at the deadline.

    The address that is checked is the one that is connected to: a name may resolve to another one later.
    """

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        addresses = self._resolve_allowed(host, port)
        error: Exception = httpcore.ConnectError(f"{host} has no address")
        for number, address in enumerate(addresses):
            limit_s = _limit(timeout, httpcore.ConnectTimeout)
            # An address that does not answer must leave time for the next one.
            share_s = limit_s and limit_s / (len(addresses) - number)
            try:
                return _Stream(super().connect_tcp(address, port, share_s, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as refused:
                error = refused
        raise error

    def _resolve_allowed(self, host: str, port: int) -> list[str]:
        resolved = _resolve(host, port)
        addresses = [address for address in resolved if not is_metadata_address(address)]
        if resolved and not addresses:
            raise PrivateAddress(
                "has a link-local address or that of a metadata service, which is always refused; "
                "use another URL"
            )
        if self._allow_private or not addresses:
            return addresses
        addresses = [address for address in addresses if is_public_address(address)]
        if not addresses:
            raise PrivateAddress(
                "has no public address; set allow_private = true beside its URL if it belongs to "
                "your own network"
            )
        return addresses


def _resolve(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host, the preferred one first."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
