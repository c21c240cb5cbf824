"""Import of a file with exported deliveries or bare bodies."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple, Protocol

from app.clock import utc_now
from app.errors import ConfigError, UnreadableDelivery
from app.store.delivery_export import ImportedDelivery, read_line
from app.store.inbox import Inbox
from app.store.models import DeliveryState, IncomingDelivery, delivery_id_for
from app.store.restore import KnownDelivery, PrunedBodies
from app.truto.events import read_envelope
from app.truto.signature import parse_signature_header, sign

# A batch is held in memory and committed at once; the last body may exceed the bytes.
_MAX_BATCH_DELIVERIES = 64
_MAX_BATCH_BYTES = 16 * 1024 * 1024
# An exported body is base64, or JSON text with escapes; its other members take little.
_MAX_LINE_BYTES_PER_BODY_BYTE, _MAX_OTHER_LINE_BYTES = 4, 65536
_NOT_VERIFIED = (
    "no known secret signed this body, so the pruned delivery stays without it; if the webhook's secret was "
    "another one then, pass it with --secret"
)
_GZIP_MAGIC = b"\x1f\x8b"


class ImportObserver(Protocol):
    """Receives the progress of an import, in the thread that runs it."""

    def on_stored(self) -> None:
        """Receive a call after every stored batch."""

    def on_skipped(self, line_number: int, reason: str) -> None:
        """Receive a skipped line's number, from 1 on, and the reason."""


@dataclass(slots=True)
class ImportCounts:
    """Deliveries and lines of an import.

    quarantined: the new deliveries with unreadable bodies. restored: pruned deliveries that have their bodies
    again. erased: known deliveries of erased accounts, which stay erased. skipped: lines without a whole
    delivery, or whose body is not the one that was pruned.
    """

    new: int = 0
    quarantined: int = 0
    restored: int = 0
    duplicates: int = 0
    erased: int = 0
    skipped: int = 0

    @property
    def has_problems(self) -> bool:
        """Whether a line was skipped or a delivery quarantined."""
        return bool(self.skipped or self.quarantined)

    def as_json(self) -> dict[str, int]:
        """Return the counts as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class UnreadableLine:
    """A line without a whole delivery."""

    reason: str


class _NumberedDelivery(NamedTuple):
    """A delivery and the number of its line."""

    line_number: int
    delivery: IncomingDelivery


class Importer:
    """Stores the deliveries of a file in the inbox, several per commit. Raises StoreUnavailable.

    A pruned delivery of the inbox gets its body back, if a known secret signed that body.
    secret: the secret that Truto would sign bare bodies with; "" if the file holds exported deliveries only.
    other_secrets: more secrets that may have signed pruned bodies. dry_run: read and count, store nothing.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        secret: str,
        other_secrets: Sequence[str] = (),
        max_body_bytes: int,
        dry_run: bool = False,
        observer: ImportObserver,
    ) -> None:
        self._inbox = inbox
        self._pruned_bodies = PrunedBodies(inbox.database)
        self._secret = secret
        self._secrets = tuple(dict.fromkeys(filter(None, (secret, *other_secrets))))
        self._max_body_bytes = max_body_bytes
        self._dry_run = dry_run
        self._observer = observer
        self._batch: list[_NumberedDelivery] = []
        self.counts = ImportCounts()

    def import_lines(self, source: io.BufferedReader) -> None:
        """Import every readable line; raises ConfigError for a bare body without a secret.

        May be interrupted by an exception: the lines read so far are stored, and duplicates are harmless.
        """
        max_line_bytes = self._max_body_bytes * _MAX_LINE_BYTES_PER_BODY_BYTE + _MAX_OTHER_LINE_BYTES
        try:
            for number, line in read_numbered_lines(source, max_line_bytes=max_line_bytes):
                delivery = line if isinstance(line, UnreadableLine) else self._parse_line(line)
                if isinstance(delivery, UnreadableLine):
                    self._skip(number, delivery.reason)
                    continue
                self._batch.append(_NumberedDelivery(number, delivery))
                if self._is_batch_full():
                    self._store_batch()
        finally:
            self._store_batch()

    def _parse_line(self, line: bytes) -> IncomingDelivery | UnreadableLine:
        try:
            exported = read_line(line)
        except ValueError as error:
            return UnreadableLine(str(error))
        try:
            delivery = _build_exported(exported) if exported else self._build_from_bare_body(line)
        except UnreadableDelivery as error:
            return UnreadableLine(f"neither an exported delivery nor a Truto event: {error}")
        if len(delivery.body) > self._max_body_bytes:
            return UnreadableLine(f"its body is longer than MAX_BODY_BYTES, {self._max_body_bytes:,}")
        return delivery

    def _build_from_bare_body(self, body: bytes) -> IncomingDelivery:
        envelope = read_envelope(body)
        if not self._secret:
            raise ConfigError(
                [
                    "TRUTO_WEBHOOK_SECRET: not set, but the ids of bare bodies depend on it. "
                    "Set it to the secret of their webhook, or import exported deliveries only."
                ]
            )
        digest = parse_signature_header(sign(body, self._secret))
        return IncomingDelivery(body, digest, utc_now(), envelope)

    def _is_batch_full(self) -> bool:
        batch_bytes = sum(len(delivery.body) for _, delivery in self._batch)
        return len(self._batch) >= _MAX_BATCH_DELIVERIES or batch_bytes >= _MAX_BATCH_BYTES

    def _skip(self, line_number: int, reason: str) -> None:
        self.counts.skipped += 1
        self._observer.on_skipped(line_number, reason)

    def _store_batch(self) -> None:
        batch, self._batch = self._batch, []
        known = self._pruned_bodies.find_known([delivery.delivery_id for _, delivery in batch])
        self._store_new([delivery for _, delivery in batch if delivery.delivery_id not in known])
        for line_number, delivery in batch:
            if known_delivery := known.get(delivery.delivery_id):
                is_restored = self._store_known(line_number, delivery, known_delivery)
                if is_restored:
                    # A second copy in the same batch is a duplicate.
                    known[delivery.delivery_id] = replace(known_delivery, is_pruned=False)
        self._observer.on_stored()

    def _store_new(self, deliveries: Sequence[IncomingDelivery]) -> None:
        if self._dry_run:
            first_copies = {delivery.delivery_id: delivery for delivery in reversed(deliveries)}
            is_duplicate = [delivery is not first_copies[delivery.delivery_id] for delivery in deliveries]
        else:
            receipts = self._inbox.put(deliveries) if deliveries else []
            is_duplicate = [receipt.is_duplicate for receipt in receipts]
        for delivery, is_copy in zip(deliveries, is_duplicate, strict=True):
            self.counts.duplicates += is_copy
            self.counts.new += not is_copy
            self.counts.quarantined += not is_copy and delivery.state == DeliveryState.QUARANTINED

    def _store_known(self, line_number: int, delivery: IncomingDelivery, known: KnownDelivery) -> bool:
        """Restore a delivery's body if it was pruned; return whether it was restored."""
        if not known.is_pruned:
            self.counts.duplicates += 1
        elif known.is_erased:
            self.counts.erased += 1
        elif not self._is_signed_body(delivery):
            self._skip(line_number, _NOT_VERIFIED)
        elif self._dry_run or self._pruned_bodies.restore(known.id, delivery.body):
            self.counts.restored += 1
            return True
        else:
            # Another process has restored or erased it meanwhile.
            self.counts.duplicates += 1
        return False

    def _is_signed_body(self, delivery: IncomingDelivery) -> bool:
        """Whether a delivery's id results from its body, signed with a known secret.

        The first release made ids from a hash of the body.
        """
        digests = [parse_signature_header(sign(delivery.body, secret)) for secret in self._secrets]
        digests.append(hashlib.sha256(delivery.body).digest())
        envelope = delivery.envelope
        return delivery.delivery_id in (
            delivery_id_for(envelope.event_id, envelope.created_at, digest) for digest in digests
        )


def read_numbered_lines(
    source: io.BufferedReader, *, max_line_bytes: int
) -> Iterator[tuple[int, bytes | UnreadableLine]]:
    """Yield the number, from 1 on, and the text of every line that is not blank.

    source: plain or gzip. Longer lines than max_line_bytes and a damaged rest are an UnreadableLine.
    """
    number = 0
    try:
        plain = _open_plain(source)
        while line := plain.readline(max_line_bytes + 2):
            number += 1
            text = line.rstrip(b"\r\n")
            if len(text) > max_line_bytes:
                _skip_line(plain, line)
                yield number, UnreadableLine(f"longer than {max_line_bytes:,} bytes")
            elif text.strip():
                yield number, text
    except EOFError:
        yield number + 1, UnreadableLine("the file is truncated here")
    except (zlib.error, OSError):
        yield number + 1, UnreadableLine("the file is damaged here")


def _open_plain(source: io.BufferedReader) -> io.BufferedReader | gzip.GzipFile:
    return gzip.GzipFile(fileobj=source) if source.peek(2)[:2] == _GZIP_MAGIC else source


def _skip_line(plain: io.BufferedReader | gzip.GzipFile, line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = plain.readline(1 << 20)


def _build_exported(exported: ImportedDelivery) -> IncomingDelivery:
    # A time in the future would be after every replay's start.
    received_at = min(exported.received_at, utc_now())
    delivery = IncomingDelivery(exported.body, b"", received_at, id=exported.id)
    try:
        return replace(delivery, envelope=read_envelope(exported.body))
    except UnreadableDelivery as error:
        # It was quarantined in the other inbox too.
        return replace(delivery, state=DeliveryState.QUARANTINED, reason=error.reason)
