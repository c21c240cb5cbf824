"""How times and names are shown on a terminal."""

from datetime import datetime


def format_time(time: datetime | None) -> str:
    """Return a time as it is shown: in UTC, to the second."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else "-"


def replace_control_chars(text: str) -> str:
    """Return a name of Truto's without what would move the cursor."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
