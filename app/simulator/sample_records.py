"""Sample records of Truto's unified CRM and ticketing APIs, 1 KB each."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

_FIRST_NAMES = (
    "Ada",
    "Björn",
    "Chloé",
    "Дарья",
    "Eduardo",
    "Fatima",
    "Grzegorz",
    "Hana",
    "Idris",
    "Jun",
    "李雷",
    "Mireille",
)
_LAST_NAMES = (
    "Lovelace",
    "Ångström",
    "Dupont",
    "Иванова",
    "Silva",
    "Al-Sayed",
    "Nowak",
    "Kim",
    "Okafor",
    "Tanaka",
    "王",
    "O'Neill",
)
_WORDS = ("invoice", "renewal", "export", "latency", "refund", "webhook", "login", "report", "archive")
_PROSE = "Steps, expected and actual result are below; the customer asks for an answer this week. "


def make_record(resource: str, account: str, index: int, version: str) -> dict[str, Any]:
    """Return the record at an index, in one version; the same arguments give the same record."""
    number = index * 2654435761 % 2**32
    record = {
        "id": f"{resource.rpartition('/')[2][:2]}-{index}",
        "created_at": f"2025-{number % 12 + 1:02d}-{number % 28 + 1:02d}T08:{number % 60:02d}:00.000Z",
        "updated_at": f"2026-{number % 12 + 1:02d}-{number % 28 + 1:02d}T17:{number % 60:02d}:00.000Z",
        "revision": version,
        **_RECORD_MAKERS.get(resource, _make_contact)(index, number),
    }
    record["remote_data"] = {
        "account": account,
        "etag": f"{number:08x}",
        "properties": _make_properties(number),
    }
    return record


def digest_record(record: Any) -> bytes:
    """Return a digest of 8 bytes, which does not depend on the order of members."""
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:8]


def _make_contact(index: int, number: int) -> dict[str, Any]:
    first, last = _FIRST_NAMES[number % len(_FIRST_NAMES)], _LAST_NAMES[number // 7 % len(_LAST_NAMES)]
    address = {
        "street_1": f"{number % 200} Main St",
        "city": "Zürich",
        "postal_code": f"{number % 90000 + 10000}",
    }
    return {
        "first_name": first,
        "last_name": last,
        "name": f"{first} {last}",
        "emails": [{"email": f"contact{index}@example.com", "type": "work", "is_primary": True}],
        "phones": [{"number": f"+41 44 {number % 10**7:07d}", "type": "mobile"}],
        "addresses": [{**address, "type": "work"}, {**address, "type": "home", "country": "CH"}],
        "urls": [{"url": f"https://example.com/contacts/{index}", "type": "profile"}],
        "account": {"id": f"ac-{index // 10}"},
        "tags": [_WORDS[number % len(_WORDS)], _WORDS[number // 11 % len(_WORDS)]],
    }


def _make_account(index: int, number: int) -> dict[str, Any]:
    return {
        "name": f"{_LAST_NAMES[number % len(_LAST_NAMES)]} & "
        f"{_LAST_NAMES[number // 5 % len(_LAST_NAMES)]} {index}",
        "industry": _WORDS[number % len(_WORDS)],
        "annual_revenue": number % 10**7 + 0.25,
        "employee_count": number % 5000,
        "website": f"https://account{index}.example.com",
        "owner": {"id": f"us-{number % 20}", "name": _FIRST_NAMES[number % len(_FIRST_NAMES)]},
        "description": _PROSE * 4,
    }


def _make_ticket(index: int, number: int) -> dict[str, Any]:
    return {
        "name": f"{_WORDS[number % len(_WORDS)]} {_WORDS[number // 13 % len(_WORDS)]} fails",
        "description": _PROSE * 5,
        "number": index,
        "status": {"id": f"st-{number % 4}", "name": ("open", "pending", "solved", "closed")[number % 4]},
        "priority": {"id": f"pr-{number % 3}", "name": ("low", "normal", "high")[number % 3]},
        "assignees": [{"id": f"us-{number % 20}"}, {"id": f"us-{number // 20 % 20}"}],
        "tags": [_WORDS[number % len(_WORDS)], _WORDS[number // 11 % len(_WORDS)]],
        "is_archived": number % 17 == 0,
    }


def _make_comment(index: int, number: int) -> dict[str, Any]:
    return {
        "ticket": {"id": f"ti-{index // 3}"},
        "author": {
            "id": f"us-{number % 20}",
            "name": _FIRST_NAMES[number % len(_FIRST_NAMES)],
            "type": "agent",
        },
        "body": f"<p>{_PROSE * 4}</p>\n\t“{_WORDS[number % len(_WORDS)]}” 🙂",
        "is_private": number % 2 == 0,
        "attachments": [{"id": f"at-{number}", "name": "log.txt", "size": number % 10**6}],
    }


def _make_properties(number: int) -> dict[str, Any]:
    return {f"custom_field_{place}": f"{number >> place:x}" * 2 for place in range(8)}


_RECORD_MAKERS: Mapping[str, Callable[[int, int], dict[str, Any]]] = {
    "crm/contacts": _make_contact,
    "crm/accounts": _make_account,
    "ticketing/tickets": _make_ticket,
    "ticketing/comments": _make_comment,
}
