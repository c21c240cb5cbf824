"""Times, numbers and texts as the pages show them."""

import re
from datetime import UTC, datetime
from urllib.parse import quote

from markupsafe import Markup

from app.clock import utc_now
from app.plural import format_count
from app.store.bounded_count import BoundedCount
from app.times import format_duration
from app.truto.events import RECORD_EVENT

_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB")

# Marks of the writing direction, which reverse the text around them and so could forge words of a page; and
# characters without a width, as a name of them alone would be an empty link.
_INVISIBLE = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
_ANY_CHARACTER = re.compile(".", re.DOTALL)


def format_number(number: int | None) -> str:
    """Return a number with its thousands separated; "?" if it is unknown."""
    return "?" if number is None else f"{number:,}"


def format_bounded(count: BoundedCount, noun: str) -> str:
    """Return a count with its noun, such as "10,000+ deliveries". A count without a noun needs no filter."""
    return count.format(noun)


def format_age(time: datetime | None, *, now: datetime | None = None) -> str:
    """Return the time since or until a moment, such as "3 min ago" or "in 2 h"; "never" without one."""
    if time is None:
        return "never"
    age_s = ((now or utc_now()) - time).total_seconds()
    if abs(age_s) < 1:
        return "now"
    return f"in {format_duration(-age_s)}" if age_s < 0 else f"{format_duration(age_s)} ago"


def format_time(time: datetime | None) -> Markup:
    """Return a time in UTC and its age, as an element; a dash without a time."""
    if time is None:
        return Markup("&ndash;")
    utc = time.astimezone(UTC)
    return Markup('<time datetime="{}">{} <span class="age">{}</span></time>').format(
        utc.isoformat(), f"{utc:%Y-%m-%d %H:%M:%S} UTC", format_age(utc)
    )


def format_short_time(time: datetime | None) -> Markup:
    """Return the age of a time, with the time in UTC as its title; "never" without a time."""
    if time is None:
        return Markup("never")
    utc = time.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(), f"{utc:%Y-%m-%d %H:%M:%S} UTC", format_age(utc)
    )


def format_bytes(size: int) -> str:
    """Return a size, such as "1.4 MiB"."""
    if size < 1024:
        return format_count(size, "byte")
    amount, unit = float(size), "bytes"
    for unit in _BYTE_UNITS:  # noqa: B007  # the last one is used
        amount /= 1024
        if amount < 1024:
            break
    return f"{amount:.1f} {unit}"


def shorten(text: str, max_chars: int = 60) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def quote_id(text: str) -> str:
    """Return an id for the path of a URL, with its slashes quoted."""
    return quote(text, safe="")


def describe_subject(event: str, resource: str, method: str) -> str:
    """Return the subject of a delivery: a batch's resource and method, or the event."""
    subject = f"{resource} {method}".strip()
    return subject if event == RECORD_EVENT and subject else f"{event or '(no event)'} {subject}".strip()


def escape_invisible(value: object) -> object:
    """Return a value as pages show it: invisible characters of a text as escapes, such as \\u200b."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    # A text of spaces alone is invisible too.
    invisible = _INVISIBLE if value.strip() or not value else _ANY_CHARACTER
    return invisible.sub(lambda match: _escape(match[0]), value)


def _escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if character <= "\uffff" else f"\\U{ord(character):08x}"


FILTERS = {
    "age": format_age,
    "bounded": format_bounded,
    "bytes": format_bytes,
    "duration": format_duration,
    "number": format_number,
    "plural": format_count,
    "quoted": quote_id,
    "short_time": format_short_time,
    "shorten": shorten,
    "time": format_time,
}
