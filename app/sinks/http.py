"""The http sink: batches as signed requests to an endpoint of the user."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import httpx

from app.backoff import parse_retry_after_s
from app.clock import utc_now
from app.config.routes import Route
from app.config.sinks import HttpSinkConfig
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.http_client import PrivateAddress, ResponseTooLarge, open_http_client, send
from app.sinks.base import REASON_PATTERN, Batch, Record, RejectedRecord, WriteResult
from app.standard_webhooks import sign_message
from app.truto.records import to_json

# All requests of a batch together: a job ends after 25 s.
_BATCH_TIMEOUT_S = 15.0
_MAX_ANSWER_BYTES = 1_000_000
_MAX_RETRY_AFTER_S = 1800.0
_INVALID_URL = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, UnicodeError)
_REJECTIONS = {
    413: ("too_large", "the endpoint answered 413: the record is too large for it"),
    422: ("endpoint_rejected", "the endpoint answered 422: it rejects the record"),
}
# 409: another worker's request with the same Idempotency-Key is in progress.
_TRANSIENT_STATUSES = (408, 409, 421, 423, 425, 429)
_ADVICE = {
    401: "correct `secret` or `headers` of the sink",
    403: "correct `secret` or `headers` of the sink, or allow its requests at the endpoint",
    404: "correct `url` of the sink",
    405: "correct `url` of the sink: the endpoint must accept POST",
    410: "the endpoint wants no more records: correct `url`, or remove the sink from the routes",
}


class HttpSink:
    """An endpoint that gets each batch as one or several POST requests, see docs/sinks.md.

    A request may be repeated, with the same `webhook-id` and body; requests arrive in any order. A status of
    2xx promises that the endpoint has its records. Rejected requests (413, 422) are halved until the rejected
    records stand alone. Nothing that the endpoint answers is logged or stored, except for codes.
    """

    def __init__(self, config: HttpSinkConfig, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._config = config
        self._clock = clock
        self._client: httpx.Client | None = None

    def write(self, batch: Batch, _route: Route) -> WriteResult:
        """Send a batch; see Sink. An empty one is not sent."""
        deadline_s = time.monotonic() + _BATCH_TIMEOUT_S
        rejected = [
            record
            for items in self._split(batch)
            for record in self._send_items(batch, items, deadline_s=deadline_s)
        ]
        return WriteResult(len(batch.records) - len(rejected), rejected)

    def ping(self) -> None:
        """Send a request without records; raises SinkUnavailable unless the endpoint accepts it."""
        body = to_json({"type": "ping", "records": []}).encode()
        try:
            self._check_status(self._post(body, deadline_s=time.monotonic() + _BATCH_TIMEOUT_S))
        finally:
            self.close()

    def count(self, _account: str) -> int:
        """Raise SinkUnavailable: an endpoint cannot count."""
        raise SinkUnavailable(f"the endpoint {self._config.place} does not report its records")

    def erase(self, _account: str) -> int:
        """Raise SinkUnavailable: an endpoint cannot erase."""
        raise SinkUnavailable(
            f"nothing was erased at {self._config.place}: delete the account's records in its own system"
        )

    def close(self) -> None:
        """Close the connections."""
        if self._client:
            self._client.close()
        self._client = None

    def _split(self, batch: Batch) -> Iterator[Sequence[tuple[int, str]]]:
        """Return the records as (ordinal, JSON) in groups, each of the size of one request."""
        items: list[tuple[int, str]] = []
        size = 0
        for record in batch.records:
            item = _format_record(batch, record)
            item_bytes = len(item.encode())
            is_full = len(items) >= self._config.max_records or size + item_bytes > self._config.max_bytes
            if items and is_full:
                yield items
                items, size = [], 0
            items.append((record.ordinal, item))
            size += item_bytes
        if items:
            yield items

    def _send_items(
        self, batch: Batch, items: Sequence[tuple[int, str]], *, deadline_s: float
    ) -> Sequence[RejectedRecord]:
        """Send records; halve them if they are rejected together. Return the rejected ones."""
        response = self._post(_format_body(batch, items), deadline_s=deadline_s)
        if rejection := _REJECTIONS.get(response.status_code):
            if len(items) == 1:
                return [RejectedRecord(items[0][0], *rejection)]
            middle = len(items) // 2
            return [
                record
                for half in (items[:middle], items[middle:])
                for record in self._send_items(batch, half, deadline_s=deadline_s)
            ]
        self._check_status(response)
        return _read_rejected(response, {ordinal for ordinal, _ in items})

    def _post(self, body: bytes, *, deadline_s: float) -> httpx.Response:
        config = self._config
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            message = f"the endpoint did not accept the batch within {_BATCH_TIMEOUT_S:g} s"
            raise SinkUnavailable(message, is_batch_timeout=True)
        # Equal in each attempt, so that the endpoint can recognize a repetition.
        message_id = f"msg_{hashlib.sha256(body).hexdigest()[:32]}"
        headers = {
            "User-Agent": "rapidbridge-receiver",
            **config.headers,
            "Content-Type": "application/json",
            "Idempotency-Key": message_id,
            **sign_message(config.secret, message_id, int(self._clock().timestamp()), body),
        }
        try:
            self._client = self._client or open_http_client(
                allow_private=config.allow_private,
                # Not a proxy of the environment, which could reach every address.
                transport=httpx.HTTPTransport(),
            )
            return send(
                self._client,
                "POST",
                config.url,
                timeout_s=min(config.timeout_s, remaining_s),
                max_bytes=_MAX_ANSWER_BYTES,
                content=body,
                headers=headers,
            )
        except ResponseTooLarge as error:
            return error.response
        except (*_INVALID_URL, httpx.HTTPError) as error:
            raise self._translate_error(error) from error
        except JobTimeout:
            # The interrupted connection cannot be used again.
            self.close()
            raise

    def _translate_error(self, error: Exception) -> SinkUnavailable:
        match error:
            case PrivateAddress():
                return SinkRefused("sink_set_up", f"the endpoint {error}")
            case _ if isinstance(error, _INVALID_URL):
                return SinkRefused("sink_set_up", "`url` of the sink is no valid URL; correct it")
            case httpx.ConnectTimeout():
                return SinkUnavailable(
                    "the endpoint cannot be reached: no connection in time; check its network"
                )
            case httpx.TimeoutException():
                message = f"the endpoint did not answer within {self._config.timeout_s:g} s; check its load"
                return SinkUnavailable(message, is_batch_timeout=True)
            case _ if "CERTIFICATE_VERIFY_FAILED" in str(error):
                return SinkUnavailable(
                    "the endpoint's certificate is not valid; renew it, or set SSL_CERT_FILE to the file of "
                    "its authority"
                )
        return SinkUnavailable(
            f"the connection to the endpoint failed ({type(error).__name__}); check its server"
        )

    def _check_status(self, response: httpx.Response) -> None:
        """Raise an error unless the endpoint has accepted the request."""
        status = response.status_code
        if 200 <= status < 300:
            return
        if 300 <= status < 400:
            raise SinkRefused(
                "sink_set_up",
                f"the endpoint answered {status}: redirects are not followed, set `url` to the target",
            )
        if 400 <= status < 500 and status not in _TRANSIENT_STATUSES:
            advice = _ADVICE.get(status, "find the cause in the log of the endpoint")
            raise SinkRefused("sink_set_up", f"the endpoint answered {status}; {advice}")
        wait_s = parse_retry_after_s(response.headers.get("Retry-After", ""), now=self._clock())
        raise SinkUnavailable(
            f"the endpoint answered {status}; find the cause in its log",
            retry_after_s=wait_s and min(wait_s, _MAX_RETRY_AFTER_S),
        )


def _format_record(batch: Batch, record: Record) -> str:
    members = {
        "ordinal": record.ordinal,
        "key": record.key,
        "version": record.version.isoformat(timespec="microseconds"),
        "sequence": record.sequence,
        "deleted": batch.is_deletion,
    }
    return f'{to_json(members)[:-1]},"data":{record.json}}}'


def _format_body(batch: Batch, items: Sequence[tuple[int, str]]) -> bytes:
    """Return the body of a request; the same one for the same records in every attempt."""
    members = {
        "type": "records",
        "delivery": str(batch.delivery_id),
        "received_at": batch.received_at.isoformat(timespec="microseconds"),
        "resource": batch.resource,
        "method": batch.method,
        "account": batch.account,
        "job": batch.job,
        "run": batch.run,
    }
    records = ",".join(item for _, item in items)
    return f'{to_json(members)[:-1]},"records":[{records}]}}'.encode()


def _read_rejected(response: httpx.Response, ordinals: set[int]) -> Sequence[RejectedRecord]:
    """Return the records that an answer rejects. ordinals: of the records of the request."""
    if not re.match(r"application/json\b", response.headers.get("Content-Type", "")):
        return ()
    try:
        answer = json.loads(response.content or "{}")
        listed = answer.get("rejected") or () if isinstance(answer, dict) else ()
        reasons = {_check_ordinal(item["ordinal"], ordinals): item.get("reason") for item in listed}
    except httpx.ResponseNotRead:
        raise _refuse_answer(f"is longer than {_MAX_ANSWER_BYTES:,} bytes, or compressed") from None
    except (ValueError, RecursionError):
        raise _refuse_answer("is no valid JSON") from None
    except (LookupError, TypeError, AttributeError):
        raise _refuse_answer("has a `rejected` of another form") from None
    message = "the endpoint rejected the record"
    return [RejectedRecord(ordinal, _make_code(reason), message) for ordinal, reason in reasons.items()]


def _check_ordinal(ordinal: Any, ordinals: set[int]) -> int:
    if type(ordinal) is not int or ordinal not in ordinals:
        raise LookupError
    return ordinal


def _make_code(reason: Any) -> str:
    # Any other text could quote the record.
    return reason if isinstance(reason, str) and REASON_PATTERN.fullmatch(reason) else "endpoint_rejected"


def _refuse_answer(problem: str) -> SinkRefused:
    advice = 'answer without a body, or with {"rejected": [{"ordinal": 3, "reason": "a_code"}]}'
    return SinkRefused("sink_set_up", f"the endpoint's answer {problem}; {advice}")
