"""How times and names are shown on a terminal."""

from datetime import datetime


def clock(time: datetime | None) -> str:
    """Return a time as it is shown: in UTC, to the second."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else "-"


def printable(text: str) -> str:
    """Return a name of Truto's without what would move the cursor."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
