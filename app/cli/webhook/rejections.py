"""What the web process turned away, read from its log: a wrong secret shows nowhere else."""

import re
from collections.abc import Iterator
from pathlib import Path

_REJECTED_EVENT = re.compile(
    r'event=delivery\.(unauthorized|too_large|incomplete|unavailable)\b.*?reason="([^"]*)"'
)


class RejectionLog:
    """The log of a service that runs in a folder, read as it grows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rapidbridge.log"
        self._read_bytes = 0

    def read_new_lines(self) -> Iterator[str]:
        """Yield what was turned away since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            text = file.read()
        # What is being written is read once it is whole.
        whole = text[: text.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        for match in _REJECTED_EVENT.finditer(whole.decode(errors="replace")):
            yield f"          turned away, {match[1]}: {match[2]}"
