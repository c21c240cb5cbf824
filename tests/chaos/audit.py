"""Comparison of every acknowledged delivery with the inbox, the results and the sinks."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, select, text

from app.database.engine import Database
from app.store.compression import decompress
from app.store.schema import dead_records, deliveries, record_errors, sink_outcomes
from tests.chaos.traffic import RESOURCES, SentDelivery, Traffic, build_record, compute_digest
from tests.support.files import read_rows

LAKE_RESOURCE = RESOURCES[0]
# The final state of each kind of delivery, and the name of the fault if it is another.
_EXPECTED_STATES = {
    "page": "settled",
    "deletion": "settled",
    "errors": "settled",
    "unreadable": "quarantined",
}
_FAULT_BY_STATE = {"pending": "unsettled", "dead": "dead"}
_MAX_EXAMPLES = 5

SettledDeliveries = Mapping[UUID, SentDelivery]
Key = TypeVar("Key")


@dataclass(slots=True)
class AuditResult:
    """The counts, and the faults with some examples.

    faults: lost, doubled, regressed, astray (data of the other installation), unsettled, dead, miscounted,
    garbled, foreign, released (the lease of a living worker), stuck (no recovery without help) or leaked (a secret or a
    field of a record was shown).
    """

    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add_fault(self, fault: str, example: str) -> None:
        """Count a fault, and keep the first few as examples."""
        self.faults[fault] += 1
        if self.faults[fault] <= _MAX_EXAMPLES:
            self.examples.append(f"{fault}: {example}")


def audit(traffic: Traffic, other: Traffic, database: Database, lake: Path, result: AuditResult) -> None:
    """Compare all stored data of an installation, once nothing is being processed.

    other: the traffic of the other installation. database: also the sink "main".
    """
    # An unsettled delivery is a fault of its own: no sink must have it, and any may.
    settled = _audit_inbox(traffic.sent, other.sent, database, result)
    _audit_results(settled, database, result)
    for resource in RESOURCES:
        of_resource = {id_: delivery for id_, delivery in settled.items() if delivery.resource == resource}
        _audit_rows(resource, of_resource, traffic, database, result)
    _audit_files(settled, lake, result)


def _audit_inbox(
    sent: Mapping[bytes, SentDelivery],
    sent_to_other: Mapping[bytes, SentDelivery],
    database: Database,
    result: AuditResult,
) -> SettledDeliveries:
    settled: dict[UUID, SentDelivery] = {}
    missing = dict(sent)
    columns = (deliveries.c.id, deliveries.c.state, deliveries.c.reason, deliveries.c.body)
    with database.engine.connect() as connection:
        for id_, state, reason, body in connection.execution_options(yield_per=200).execute(select(*columns)):
            digest = compute_digest(decompress(body))
            if digest not in sent:
                result.add_fault("astray" if digest in sent_to_other else "foreign", f"delivery {id_}")
                continue
            if missing.pop(digest, None) is None:
                result.add_fault("doubled", f"delivery {id_} is in the inbox twice")
            delivery = sent[digest]
            result.counts[f"deliveries {state}"] += 1
            if state == _EXPECTED_STATES[delivery.kind]:
                settled[id_] = delivery
            else:
                result.add_fault(
                    _FAULT_BY_STATE.get(state, "miscounted"), f"{delivery.kind} {id_} is {state} {reason}"
                )
    for delivery in missing.values():
        if delivery.is_acknowledged:
            result.add_fault("lost", f"{delivery.kind} of {delivery.created_at} is not in the inbox")
    acknowledged = [delivery for delivery in sent.values() if delivery.is_acknowledged]
    result.counts["deliveries sent"] += len(sent)
    result.counts["deliveries acknowledged"] += len(acknowledged)
    result.counts["deliveries stored"] += len(sent) - len(missing)
    result.counts["records acknowledged"] += sum(
        len(delivery.records) + delivery.unreadable for delivery in acknowledged
    )
    return settled


def _audit_results(settled: SettledDeliveries, database: Database, result: AuditResult) -> None:
    done, dead = Counter[tuple[UUID, str]](), Counter[tuple[UUID, str]]()
    for id_, delivery in settled.items():
        no_objects = sum(key is None for key, _ in delivery.records)
        dead[id_, ""] = delivery.unreadable
        for sink in _sinks_for(delivery):
            dead[id_, sink] = no_objects
            done[id_, sink] = len(delivery.records) - no_objects
    with database.engine.connect() as connection:
        written = connection.execute(
            select(sink_outcomes.c.delivery_id, sink_outcomes.c.sink, sink_outcomes.c.written).where(
                sink_outcomes.c.state == "done"
            )
        ).all()
        dead_counts = connection.execute(
            select(dead_records.c.delivery_id, dead_records.c.sink, func.count()).group_by(
                dead_records.c.delivery_id, dead_records.c.sink
            )
        ).all()
        errors = connection.execute(select(func.count()).select_from(record_errors)).scalar_one()
    actual = [
        {(id_, sink): number for id_, sink, number in rows if id_ in settled}
        for rows in (written, dead_counts)
    ]
    _compare("records written", done, actual[0], result)
    _compare("dead records", +dead, actual[1], result)
    _compare(
        "record errors",
        {"all": sum(delivery.errors for delivery in settled.values())},
        {"all": errors},
        result,
    )


def _compare(
    counted: str, expected: Mapping[Key, int], actual: Mapping[Key, int], result: AuditResult
) -> None:
    result.counts[counted] += sum(actual.values())
    for key in expected.keys() | actual.keys():
        if expected.get(key) != actual.get(key):
            result.add_fault(
                "miscounted", f"{counted} of {key}: {actual.get(key)} instead of {expected.get(key)}"
            )


def _sinks_for(delivery: SentDelivery) -> tuple[str, ...]:
    if delivery.kind not in ("page", "deletion"):
        return ()
    return ("main", "lake") if delivery.resource == LAKE_RESOURCE else ("main",)


def _audit_rows(
    resource: str,
    settled: SettledDeliveries,
    traffic: Traffic,
    database: Database,
    result: AuditResult,
) -> None:
    """Check that each row has the newest data and deletion of its record among settled deliveries."""
    newest: dict[tuple[str, str], tuple[str, int, bool]] = {}
    newest_data: dict[tuple[str, str], tuple[str, int, bool]] = {}
    for delivery in settled.values():
        for key, number in delivery.records:
            if key is not None:
                version = delivery.created_at, number, delivery.kind == "deletion"
                place = delivery.account, f"k{key}"
                for registers in (newest,) if delivery.kind == "deletion" else (newest, newest_data):
                    registers[place] = max(registers.get(place, version), version)
    times = {
        number: delivery.created_at for delivery in traffic.sent.values() for _, number in delivery.records
    }
    for account, name, record, is_deleted in _read_rows(resource, database):
        row = f"row {account} {name} of {resource}"
        if not account.startswith(traffic.name):
            result.add_fault("astray", row)
            continue
        last = newest.pop((account, name), ("", 0, False))
        # The row of a deleted record keeps the last data, if there was any.
        created_at, number, _ = newest_data.get((account, name), last)
        is_revived = last[2] and not is_deleted
        is_deleted_again = is_deleted and not last[2] and not result.faults["unsettled"]
        result.counts["rows"] += 1
        written_at = times.get(record.get("number", 0), "")
        if written_at < created_at or is_deleted_again or (is_revived and written_at < last[0]):
            deleted = "deleted, " if is_deleted else ""
            result.add_fault("regressed", f"{row}: {deleted}of {written_at}, not of {created_at}, {last[0]}")
        elif written_at > created_at and not result.faults["unsettled"]:
            result.add_fault("foreign", f"{row}: of {written_at}, after the last that is settled")
        elif written_at == created_at and record != build_record(int(name[1:]), number):
            result.add_fault("garbled", row)
    for account, name in newest:
        result.add_fault("lost", f"row {account} {name} of {resource}")


def _read_rows(resource: str, database: Database) -> Iterator[tuple[str, str, dict[str, Any], bool]]:
    statement = text(f'SELECT "_account", "_key", data, "_deleted_at" FROM {resource.replace("/", "_")}')
    with database.engine.connect() as connection:
        for account, key, record, deleted_at in connection.execution_options(yield_per=1000).execute(
            statement
        ):
            yield account, key, record, deleted_at is not None


def _audit_files(settled: SettledDeliveries, lake: Path, result: AuditResult) -> None:
    """Check that the files hold the records of each delivery once, in their order."""
    lines: dict[UUID, list[Any]] = {}
    for path in sorted(lake.glob("resource=*/**/*.jsonl*")):
        for row in read_rows(path.name, path.read_bytes()):
            lines.setdefault(UUID(row["_delivery"]), []).append(row["data"])
    for id_, delivery in settled.items():
        if "lake" not in _sinks_for(delivery):
            continue
        expected = [build_record(key, number) for key, number in delivery.records if key is not None]
        records = lines.get(id_, [])
        result.counts["lines"] += len(records)
        if records != expected:
            kind = "lost" if len(records) < len(expected) else "doubled"
            result.add_fault(kind, f"lines of delivery {id_}")
