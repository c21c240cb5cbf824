"""Takes deliveries in from a file, as if they had come."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import BinaryIO

from app.cli.replay.lines import UnreadableLine, read_numbered_lines
from app.errors import ConfigError, UnreadableDelivery
from app.store.delivery_export import ImportedDelivery, read_line
from app.store.inbox import Inbox
from app.store.models import DeliveryState, IncomingDelivery
from app.truto.events import read_envelope
from app.truto.signature import parse_signature_header, sign

# What is committed together and held in memory: no more than this, and one body.
_MAX_BATCH = 64
_MAX_BATCH_BYTES = 16 * 1024 * 1024
# A body in base64, or with most of its characters escaped, and what stands beside it.
_LINE_FACTOR, _LINE_OVERHEAD_BYTES = 4, 65536


@dataclass(slots=True)
class ImportCounts:
    """What became of a file's lines. skipped: those that are no delivery, or not a whole one."""

    new: int = 0
    quarantined: int = 0
    duplicates: int = 0
    skipped: int = 0

    def as_json(self) -> dict[str, int]:
        """Return it as `--json` prints it."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [f"{self.new:,} new deliveries", f"{self.duplicates:,} known before"]
        parts += [f"{self.quarantined:,} of them unreadable"] if self.quarantined else []
        return ", ".join([*parts, f"{self.skipped:,} lines skipped."])


class Importer:
    """Puts into the inbox what lines hold, several in one commit. Raises StoreUnavailable.

    secret: with which Truto would have signed bare bodies, "" where only exports are expected. longest_body:
    in bytes. is_dry: only read.
    """

    def __init__(self, inbox: Inbox, *, secret: str, max_body_bytes: int, dry_run: bool) -> None:
        self._inbox = inbox
        self._secret = secret
        self._max_body_bytes = max_body_bytes
        self._dry_run = dry_run
        self._deliveries: list[IncomingDelivery] = []
        self.counts = ImportCounts()

    def import_lines(
        self, source: BinaryIO, *, warn: Callable[[str], None], progress: Callable[[], None]
    ) -> None:
        """Take everything sound. complain: told what is skipped, and why. progress: told of commits."""
        max_line_bytes = self._max_body_bytes * _LINE_FACTOR + _LINE_OVERHEAD_BYTES
        try:
            for number, line in read_numbered_lines(source, max_line_bytes=max_line_bytes):
                try:
                    self._add_line(line)
                except UnreadableLine as error:
                    self.counts.skipped += 1
                    warn(f"line {number:,}: {error}")
                if len(self._deliveries) >= _MAX_BATCH or self._batch_bytes >= _MAX_BATCH_BYTES:
                    self._store_batch()
                    progress()
        finally:
            # Also after Ctrl-C: what was read is not read in vain.
            self._store_batch()
            progress()

    @property
    def _batch_bytes(self) -> int:
        return sum(len(delivery.body) for delivery in self._deliveries)

    def _add_line(self, line: bytes | UnreadableLine) -> None:
        if isinstance(line, UnreadableLine):
            raise line
        try:
            exported = read_line(line)
        except ValueError as error:
            raise UnreadableLine(str(error)) from error
        delivery = _read_exported(exported) if exported else self._read_bare_body(line)
        if len(delivery.body) > self._max_body_bytes:
            raise UnreadableLine(f"its body is longer than MAX_BODY_BYTES, {self._max_body_bytes:,}")
        self._deliveries.append(delivery)

    def _read_bare_body(self, body: bytes) -> IncomingDelivery:
        try:
            envelope = read_envelope(body)
        except UnreadableDelivery as error:
            raise UnreadableLine(f"neither a delivery of ours nor an event of Truto's: {error}") from error
        if not self._secret:
            hint = "Set it, or pass --secret: a bare body is known by what Truto would have signed it with."
            raise ConfigError([f"TRUTO_WEBHOOK_SECRET: not set. {hint}"])
        digest = parse_signature_header(sign(body, self._secret))
        return IncomingDelivery(body, digest, datetime.now(UTC), envelope)

    def _store_batch(self) -> None:
        deliveries, self._deliveries = self._deliveries, []
        receipts = [] if self._dry_run or not deliveries else self._inbox.put(deliveries)
        known = [receipt.is_duplicate for receipt in receipts] or [False] * len(deliveries)
        for delivery, is_known in zip(deliveries, known, strict=True):
            self.counts.duplicates += is_known
            self.counts.new += not is_known
            self.counts.quarantined += not is_known and delivery.state == DeliveryState.QUARANTINED


def _read_exported(exported: ImportedDelivery) -> IncomingDelivery:
    # It had an id and was kept before, also where it could not be read. Nothing came later than now.
    received_at = min(exported.received_at, datetime.now(UTC))
    delivery = IncomingDelivery(exported.body, b"", received_at, id=exported.id)
    try:
        return replace(delivery, envelope=read_envelope(exported.body))
    except UnreadableDelivery as error:
        return replace(delivery, state=DeliveryState.QUARANTINED, reason=error.reason)
