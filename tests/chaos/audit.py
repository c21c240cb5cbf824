"""Compares everything that was acknowledged with the inbox, the ledger and every sink."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, select, text

from app.database.engine import Store
from app.store.compression import decompress
from app.store.schema import dead_records, deliveries, outcomes, record_errors
from tests.chaos.traffic import RESOURCES, Sent, digest_of, record_of

LAKE_RESOURCE = RESOURCES[0]
# How a delivery of each kind must end, and what it is called where it did not.
_ENDS = {"page": "settled", "deletion": "settled", "errors": "settled", "unreadable": "quarantined"}
_FAULTS = {"pending": "unsettled", "dead": "dead"}
_EXAMPLES = 5

Settled = Mapping[UUID, Sent]
Key = TypeVar("Key")


@dataclass(slots=True)
class Findings:
    """What was counted, and everything that is not as it must be: how often, with examples.

    faults: lost, doubled, regressed, unsettled, dead, miscounted, garbled or foreign.
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def blame(self, fault: str, example: str) -> None:
        """Note something that is wrong."""
        self.faults[fault] += 1
        if self.faults[fault] <= _EXAMPLES:
            self.examples.append(f"{fault}: {example}")


def audit(sent: Mapping[bytes, Sent], store: Store, lake: Path) -> Findings:
    """Look at all that is there, once everything stands still. store: holds the sink "main" as well."""
    findings = Findings()
    # What is not settled is a finding of its own: no sink has to have it, and any may.
    settled = _audit_inbox(sent, store, findings)
    _audit_ledger(settled, store, findings)
    for resource in RESOURCES:
        of_resource = {id_: each for id_, each in settled.items() if each.resource == resource}
        _audit_rows(resource, of_resource, sent, store, findings)
    _audit_files(settled, lake, findings)
    return findings


def _audit_inbox(sent: Mapping[bytes, Sent], store: Store, findings: Findings) -> Settled:
    settled: dict[UUID, Sent] = {}
    missing = dict(sent)
    columns = (deliveries.c.id, deliveries.c.state, deliveries.c.reason, deliveries.c.body)
    with store.connect() as connection:
        for id_, state, reason, body in connection.execution_options(yield_per=200).execute(select(*columns)):
            digest = digest_of(decompress(body))
            if digest not in sent:
                findings.blame("foreign", f"delivery {id_}")
                continue
            if missing.pop(digest, None) is None:
                findings.blame("doubled", f"delivery {id_} is in the inbox twice")
            each = sent[digest]
            findings.counts[f"deliveries {state}"] += 1
            if state == _ENDS[each.kind]:
                settled[id_] = each
            else:
                findings.blame(_FAULTS.get(state, "miscounted"), f"{each.kind} {id_} is {state} {reason}")
    for each in missing.values():
        if each.is_acknowledged:
            findings.blame("lost", f"{each.kind} of {each.created_at} is not in the inbox")
    acknowledged = [each for each in sent.values() if each.is_acknowledged]
    findings.counts["deliveries sent"] = len(sent)
    findings.counts["deliveries acknowledged"] = len(acknowledged)
    findings.counts["deliveries stored"] = len(sent) - len(missing)
    findings.counts["records acknowledged"] = sum(
        len(each.records) + each.unreadable for each in acknowledged
    )
    return settled


def _audit_ledger(settled: Settled, store: Store, findings: Findings) -> None:
    done, dead = Counter[tuple[UUID, str]](), Counter[tuple[UUID, str]]()
    for id_, each in settled.items():
        no_rows = sum(key is None for key, _ in each.records)
        dead[id_, ""] = each.unreadable
        dead[id_, "main"] = no_rows
        for sink in _sinks_of(each):
            done[id_, sink] = len(each.records) - (no_rows if sink == "main" else 0)
    with store.connect() as connection:
        written = connection.execute(
            select(outcomes.c.delivery_id, outcomes.c.sink, outcomes.c.written).where(
                outcomes.c.state == "done"
            )
        ).all()
        kept = connection.execute(
            select(dead_records.c.delivery_id, dead_records.c.sink, func.count()).group_by(
                dead_records.c.delivery_id, dead_records.c.sink
            )
        ).all()
        errors = connection.execute(select(func.count()).select_from(record_errors)).scalar_one()
    found = [
        {(id_, sink): number for id_, sink, number in rows if id_ in settled} for rows in (written, kept)
    ]
    _compare("records written", done, found[0], findings)
    _compare("dead records", +dead, found[1], findings)
    _compare(
        "record errors", {"all": sum(each.errors for each in settled.values())}, {"all": errors}, findings
    )


def _compare(what: str, expected: Mapping[Key, int], found: Mapping[Key, int], findings: Findings) -> None:
    findings.counts[what] = sum(found.values())
    for key in expected.keys() | found.keys():
        if expected.get(key) != found.get(key):
            findings.blame("miscounted", f"{what} of {key}: {found.get(key)} instead of {expected.get(key)}")


def _sinks_of(each: Sent) -> tuple[str, ...]:
    if each.kind not in ("page", "deletion"):
        return ()
    return ("main", "lake") if each.resource == LAKE_RESOURCE else ("main",)


def _audit_rows(
    resource: str, settled: Settled, sent: Mapping[bytes, Sent], store: Store, findings: Findings
) -> None:
    """Each row is the newest version of its record among all that is settled."""
    newest: dict[tuple[str, str], tuple[str, int, bool]] = {}
    for each in settled.values():
        for key, number in each.records:
            if key is not None:
                version = each.created_at, number, each.kind == "deletion"
                place = each.account, f"k{key}"
                newest[place] = max(newest.get(place, version), version)
    times = {number: each.created_at for each in sent.values() for _, number in each.records}
    for account, name, record, is_deleted in _rows(resource, store):
        created_at, number, is_deletion = newest.pop((account, name), ("", 0, False))
        row = f"row {account} {name} of {resource}"
        findings.counts["rows"] += 1
        found = times.get(record.get("number", 0), "")
        if found < created_at:
            findings.blame("regressed", f"{row}: of {found}, not of {created_at}")
        elif found > created_at and not findings.faults["unsettled"]:
            findings.blame("foreign", f"{row}: of {found}, after the last that is settled")
        elif found == created_at and (
            record != record_of(int(name[1:]), number) or is_deleted != is_deletion
        ):
            findings.blame("garbled", row)
    for account, name in newest:
        findings.blame("lost", f"row {account} {name} of {resource}")


def _rows(resource: str, store: Store) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    statement = text(f'SELECT "_account", "_key", data, "_deleted_at" FROM {resource.replace("/", "_")}')
    with store.connect() as connection:
        for account, key, record, deleted_at in connection.execution_options(yield_per=1000).execute(
            statement
        ):
            yield account, key, record, deleted_at is not None


def _audit_files(settled: Settled, lake: Path, findings: Findings) -> None:
    """Each delivery has one file, with its own records and no others."""
    missing = {id_: each for id_, each in settled.items() if "lake" in _sinks_of(each)}
    seen: set[UUID] = set()
    for path in lake.rglob("*.jsonl"):
        id_ = UUID(path.stem)
        if id_ in seen:
            findings.blame("doubled", f"file {path.name}")
        seen.add(id_)
        each = missing.pop(id_, None)
        if each is None:
            continue
        found = [json.loads(line)["data"] for line in path.read_text().splitlines()]
        findings.counts["lines"] += len(found)
        if found != [number if key is None else record_of(key, number) for key, number in each.records]:
            findings.blame("garbled", f"file {path.name}")
    for id_ in missing:
        findings.blame("lost", f"file of delivery {id_}")
