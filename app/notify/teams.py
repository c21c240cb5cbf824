"""Adaptive Cards of notifications for Microsoft Teams.

Sources: https://adaptivecards.io/explorer/AdaptiveCard.html,
https://learn.microsoft.com/microsoftteams/platform/webhooks-and-connectors/how-to/connectors-using
"""

from collections.abc import Iterator
from typing import Any

from app.notify.texts import split_title

# A card may have 28 KB. A character has at most 12 bytes in JSON, and a line 80 more.
_MAX_TEXT_CHARS = 2000
_MAX_LINES = 15
_CONTENT_TYPE = "application/vnd.microsoft.card.adaptive"
_SCHEMA = "http://adaptivecards.io/schemas/adaptive-card.json"


def build_card(text: str, link: str) -> dict[str, Any]:
    """Return the message with a notification's text. link: of a button, or "".

    A RichTextBlock shows its text as it is: Markdown in a name would become a link or a picture.
    """
    card: dict[str, Any] = {
        "$schema": _SCHEMA,
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": [{"type": "RichTextBlock", "inlines": line} for line in _split_lines(text)],
    }
    if link:
        card["actions"] = [{"type": "Action.OpenUrl", "title": "Open the dashboard", "url": link}]
    attachment = {"contentType": _CONTENT_TYPE, "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _split_lines(text: str) -> Iterator[list[dict[str, Any]]]:
    title, rest = split_title(text)
    if len(rest) > _MAX_TEXT_CHARS:
        rest = rest[:_MAX_TEXT_CHARS] + "…"
    first, *others = rest.split("\n", _MAX_LINES - 1)
    yield [
        {"type": "TextRun", "text": title + " ", "weight": "bolder"},
        {"type": "TextRun", "text": first.strip()},
    ]
    for line in others:
        yield [{"type": "TextRun", "text": line}]
