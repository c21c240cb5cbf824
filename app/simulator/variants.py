"""Forms of events that Truto's documentation leaves open.

Source: docs/protocol.md, the facts marked as unconfirmed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import ConfigError

# The values of each variant, the default first.
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "event_name": ("event", "event_type", "eventType"),
    "event_id": ("own", "run", "job"),
    "created_at": ("iso", "space"),
    "webhook_id": ("present", "missing"),
    "tenant_id": ("missing", "present"),
    "ids": ("payload", "meta", "nested", "args", "none"),
    "method": ("payload", "meta", "none"),
    "records": ("list", "one", "record"),
    "log_method": ("present", "missing"),
    "test_member": ("event_type", "event_types", "event_types_list", "event", "type", "none"),
    "test_body": ("new", "fixed"),
    "test_retry": ("none", "same_id", "same_body", "new_id"),
    "test_failure": ("422", "502", "false"),
}


@dataclass(frozen=True, slots=True)
class Variants:
    """The chosen form of everything in VARIANTS.

    event_name: the member that names the event. event_id: the envelope's own id, or that of the run or the
    sync job. created_at: separated by "T" or by a space. webhook_id, tenant_id: whether events have this
    member. ids: the place of the ids of run, job and account in pages and record errors. method: its place in
    pages. records: a list, one object in `records`, or one in `record`. log_method: whether entries of the
    log have a method. test_member: the member of a request to POST /webhook/test that chooses the event.
    test_body: whether each of its events is a new one, or the same bytes every time. test_retry,
    test_failure: the retry of a rejected test event, and the answer of the API.
    """

    event_name: str = "event"
    event_id: str = "own"
    created_at: str = "iso"
    webhook_id: str = "present"
    tenant_id: str = "missing"
    ids: str = "payload"
    method: str = "payload"
    records: str = "list"
    log_method: str = "present"
    test_member: str = "event_type"
    test_body: str = "new"
    test_retry: str = "none"
    test_failure: str = "422"

    def place_ids(self, ids: Mapping[str, str], payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return a payload with the ids of its run, job and account. ids: by Truto's names."""
        meta = payload.get("meta", {})
        match self.ids:
            case "meta":
                return {**payload, "meta": {**meta, **ids}}
            case "nested":
                others = {name: id_ for name, id_ in ids.items() if name != "sync_job_run_id"}
                return {**payload, "sync_job_run": {"id": ids["sync_job_run_id"], **others}}
            case "args":
                args = {"crm_integrated_account_id": ids["integrated_account_id"]}
                run_ids = {name: id_ for name, id_ in ids.items() if name != "integrated_account_id"}
                return {**payload, "meta": {**meta, **run_ids, "args": args}}
            case "none":
                return dict(payload)
        return {**payload, **ids}

    def place_method(self, method: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Return a payload with its method."""
        match self.method:
            case "meta":
                return {**payload, "meta": {**payload.get("meta", {}), "method": method}}
            case "none":
                return dict(payload)
        return {**payload, "method": method}

    def place_records(self, records: list[Any]) -> dict[str, Any]:
        """Return the members of a payload that hold its records."""
        if self.records == "list" or len(records) != 1:
            return {"records": records}
        return {"records" if self.records == "one" else "record": records[0]}


def parse_variants(texts: tuple[str, ...]) -> Variants:
    """Return the variants of texts such as "ids=meta"; raises ConfigError."""
    chosen = dict(text.partition("=")[::2] for text in texts)
    problems = [
        f"variant: {name}={value} is unknown. Known: {_list_known(name)}."
        for name, value in chosen.items()
        if value not in VARIANTS.get(name, ())
    ]
    if problems:
        raise ConfigError(problems)
    return Variants(**chosen)


def _list_known(name: str) -> str:
    values = VARIANTS.get(name)
    return f"{name}={'|'.join(values)}" if values else ", ".join(VARIANTS)
