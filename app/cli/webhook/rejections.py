"""Rejected requests, read from the web process's log."""

import re
from collections.abc import Iterator
from pathlib import Path

# Rejected requests are not stored: the log is the only place that shows a wrong secret.
_REJECTED_EVENT = re.compile(
    r'event=delivery\.(unauthorized|too_large|incomplete|unavailable)\b.*?reason="([^"]*)"'
)


class RejectionLog:
    """Reader of the growing log of a service that runs in a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "rapidbridge.log"
        self._read_bytes = 0

    def read_new_lines(self) -> Iterator[str]:
        """Yield a line for every request rejected since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_bytes)
            text = file.read()
        # Leave an unfinished last line for the next call.
        complete = text[: text.rfind(b"\n") + 1]
        self._read_bytes += len(complete)
        for match in _REJECTED_EVENT.finditer(complete.decode(errors="replace")):
            yield f"          rejected, {match[1]}: {match[2]}"
