"""Progress of one delivery in one sink, which a later job continues."""

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class WriteProgress:
    """The part of a delivery that one sink has.

    target: the routes, sinks and account by which it was written. next_ordinal: of the first record that
    the sink does not have. max_records: in a batch, after a larger one took too long; 0 for no limit.
    written, dead, filtered: as in SinkOutcome. has_key: as in RoutedRecords, of all records so far. account:
    the only one that these records name; "" for several, None for none.
    """

    target: str = ""
    next_ordinal: int = 0
    max_records: int = 0
    written: int = 0
    dead: int = 0
    replaced_characters: int = 0
    has_key: bool | None = None
    account: str | None = None
    filtered: int = 0

    def to_json(self) -> str:
        """Return the text to store."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return stored progress; an empty one if the text is empty, or of another release."""
        try:
            return cls(**json.loads(text)) if text else cls()
        except (ValueError, TypeError):
            return cls()
