"""Takes deliveries in from a file, as if they had come."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

from app.cli.replay.lines import UnreadableLine, numbered_lines
from app.errors import ConfigError, UnreadableDelivery
from app.store.export_format import Kept, read_line
from app.store.inbox import Inbox
from app.store.models import Arrival
from app.truto.events import read_envelope
from app.truto.signature import parse_header, sign

# What is committed together and held in memory: no more than this, and one body.
_MOST = 64
_MOST_BYTES = 16 * 1024 * 1024
# A body in base64, or with most of its characters escaped, and what stands beside it.
_LINE_FACTOR, _LINE_MORE = 4, 65536


@dataclass(slots=True)
class TakenIn:
    """What became of a file's lines. skipped: those that are no delivery, or not a whole one."""

    new: int = 0
    quarantined: int = 0
    duplicates: int = 0
    skipped: int = 0

    def as_json(self) -> dict[str, int]:
        """Return it as `--json` prints it."""
        return asdict(self)

    def __str__(self) -> str:
        told = [f"{self.new:,} new deliveries", f"{self.duplicates:,} known before"]
        told += [f"{self.quarantined:,} of them unreadable"] if self.quarantined else []
        return ", ".join([*told, f"{self.skipped:,} lines skipped."])


class Intake:
    """Puts into the inbox what lines hold, several in one commit. Raises StoreUnavailable.

    secret: with which Truto would have signed bare bodies, "" where only exports are expected. longest_body:
    in bytes. is_dry: only read.
    """

    def __init__(self, inbox: Inbox, *, secret: str, longest_body: int, is_dry: bool) -> None:
        self._inbox = inbox
        self._secret = secret
        self._longest_body = longest_body
        self._is_dry = is_dry
        self._arrivals: list[Arrival] = []
        self.taken = TakenIn()

    def take_all(
        self, source: BinaryIO, *, complain: Callable[[str], None], progress: Callable[[], None]
    ) -> None:
        """Take everything sound. complain: told what is skipped, and why. progress: told of commits."""
        longest = self._longest_body * _LINE_FACTOR + _LINE_MORE
        try:
            for number, line in numbered_lines(source, longest=longest):
                try:
                    self._take(line)
                except UnreadableLine as fault:
                    self.taken.skipped += 1
                    complain(f"line {number:,}: {fault}")
                if len(self._arrivals) >= _MOST or self._size >= _MOST_BYTES:
                    self._put()
                    progress()
        finally:
            # Also after Ctrl-C: what was read is not read in vain.
            self._put()
            progress()

    @property
    def _size(self) -> int:
        return sum(len(arrival.body) for arrival in self._arrivals)

    def _take(self, line: bytes | UnreadableLine) -> None:
        if isinstance(line, UnreadableLine):
            raise line
        try:
            exported = read_line(line)
        except ValueError as error:
            raise UnreadableLine(str(error)) from error
        arrival = _exported(exported) if exported else self._bare(line)
        if len(arrival.body) > self._longest_body:
            raise UnreadableLine(f"its body is longer than MAX_BODY_BYTES, {self._longest_body:,}")
        self._arrivals.append(arrival)

    def _bare(self, body: bytes) -> Arrival:
        try:
            told = _told(body)
        except UnreadableDelivery as error:
            raise UnreadableLine(f"neither a delivery of ours nor an event of Truto's: {error}") from error
        if not self._secret:
            hint = "Set it, or pass --secret: a bare body is known by what Truto would have signed it with."
            raise ConfigError([f"TRUTO_WEBHOOK_SECRET: not set. {hint}"])
        digest = parse_header(sign(body, self._secret))
        return Arrival(body, digest, datetime.now(UTC), "pending", **told)

    def _put(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        receipts = [] if self._is_dry or not arrivals else self._inbox.put(arrivals)
        known = [receipt.is_duplicate for receipt in receipts] or [False] * len(arrivals)
        for arrival, is_known in zip(arrivals, known, strict=True):
            self.taken.duplicates += is_known
            self.taken.new += not is_known
            self.taken.quarantined += not is_known and arrival.state == "quarantined"


def _exported(exported: Kept) -> Arrival:
    # It had an id and was kept before, also where it could not be read. Nothing came later than now.
    common = (exported.body, b"", min(exported.received_at, datetime.now(UTC)))
    try:
        return Arrival(*common, "pending", **_told(exported.body), id=exported.id)
    except UnreadableDelivery as error:
        return Arrival(*common, "quarantined", error.reason, id=exported.id)


def _told(body: bytes) -> dict[str, Any]:
    """Return what an envelope says; raises UnreadableDelivery."""
    envelope = read_envelope(body)
    return {name: getattr(envelope, name) for name in envelope.__slots__}
