"""Names of files and their partitions: resource=…/account=…/dt=…/<load>.<suffix>. Pure."""

import hashlib
from datetime import date
from urllib.parse import quote

_MAX_PART_CHARS = 200
_NO_ACCOUNT = "_none"
# As they are in the names, and in those of earlier releases, which wrote a file for each delivery.
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


def format_partition(resource: str, account: str, day: date) -> str:
    """Return the folder of a resource, an account and the day on which its records were received."""
    return f"resource={encode_part(resource)}/{format_account(account)}/dt={day.isoformat()}"


def format_account(account: str) -> str:
    """Return the part of a partition that names the account."""
    # An account of that name must not share the folder of those without one.
    part = "%5Fnone" if account == _NO_ACCOUNT else encode_part(account) or _NO_ACCOUNT
    return f"account={part}"


def encode_part(name: str) -> str:
    """Return a name as one component of a path, valid on any file system and object store."""
    part = quote(name, safe="").replace(".", "%2E")
    if len(part) <= _MAX_PART_CHARS:
        return part
    return f"{part[:_MAX_PART_CHARS]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def has_records(name: str) -> bool:
    """Whether a file of this name has records, and is no temporary file."""
    return name.endswith(SUFFIXES) and not name.rpartition("/")[2].startswith(".")
