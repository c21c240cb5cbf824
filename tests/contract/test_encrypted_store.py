"""Customers' data is unreadable in the store without its key, and complete with it."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from app.encryption import EncryptionKey, Keyring, find_key_id, is_encrypted
from app.errors import ConfigError, EncryptionKeyMissing
from app.store.archive import Archive
from app.store.delivery_detail import read_dead_records
from app.store.delivery_export import DeliveryExport
from app.store.delivery_filter import DeliveryFilter
from app.store.encryption_keys import EncryptionKeys, refuse_missing_keys
from app.store.erasure import AccountData
from app.store.key_rotation import KeyRotation, RotatedRows
from app.store.restore import PrunedBodies
from app.store.retention import prune
from app.store.run_detail import group_record_errors
from app.store.schema import dead_records, deliveries, metadata, record_errors
from app.store.stored_body import stream_body
from tests.support.delivered_store import NOW, DeliveredStore

OLD, NEW = EncryptionKey.build(b"o" * 32), EncryptionKey.build(b"n" * 32)
OLD_RING, ROTATED = Keyring((OLD,)), Keyring((NEW, OLD))
NAME, MESSAGE = "Ada Lovelace", "ada@example.com is away"


@pytest.fixture
def delivered(store_url: str, tmp_path: Path) -> Iterator[DeliveredStore]:
    made = DeliveredStore(store_url, tmp_path)
    made.store.keyring = OLD_RING
    yield made
    made.close()


def deliver_run(delivered: DeliveredStore, name: str = "r") -> UUID:
    """Deliver a page with an unreadable record, and two equal record errors; return the page's id."""
    page = delivered.deliver(f"{name} 1", records=[{"id": name, "name": NAME}, NAME], sync_job_run_id=name)
    for number in (2, 3):
        error = {"message": MESSAGE, "of": NAME}
        delivered.deliver(f"{name} {number}", "record_error", error=error, sync_job_run_id=name)
    return page


def read_values(delivered: DeliveredStore) -> list[bytes | str]:
    """Return all values that are stored encrypted, or would be."""
    columns = (deliveries.c.body, dead_records.c.raw, record_errors.c.raw, record_errors.c.message)
    rows = [row[0] for column in columns for row in delivered.store.read(select(column))]
    return [bytes(value) if isinstance(value, memoryview) else value for value in rows if value]


def rotate(delivered: DeliveredStore) -> RotatedRows:
    return sum(KeyRotation(delivered.store).rotate(), RotatedRows())


def assert_readable(delivered: DeliveredStore, page: UUID, run: str = "r") -> None:
    store = delivered.store
    assert NAME in delivered.inbox.read_body(page).decode()
    assert b"".join(stream_body(store, page)) == delivered.inbox.read_body(page)
    assert [json.loads(record.raw) for record in read_dead_records(store, page, with_raw=True)] == [NAME] * 2
    [group] = group_record_errors(store, run).groups
    assert (group.message, group.number) == (MESSAGE, 2)


def test_no_value_of_a_record_is_readable_in_any_table(delivered: DeliveredStore) -> None:
    page = deliver_run(delivered)

    for table in metadata.sorted_tables:
        for row in delivered.store.read(select(table)):
            for value in row:
                assert NAME not in str(value), table.name
                assert MESSAGE not in str(value), table.name
    values = read_values(delivered)
    # Three bodies, one dead record in each of two sinks, two record errors with a message each.
    assert len(values) == 3 + 2 + 2 * 2
    assert {find_key_id(value) for value in values} == {OLD.id}
    assert_readable(delivered, page)


def test_an_unreadable_record_is_encrypted_too(delivered: DeliveredStore) -> None:
    page = delivered.deliver("1", records=[{"id": "1", "name": NAME, "number": math.nan}])

    [raw] = {row.raw for row in delivered.store.read(select(dead_records.c.raw))}

    assert find_key_id(raw) == OLD.id
    [record] = read_dead_records(delivered.store, page, with_raw=True)
    assert NAME in record.raw
    assert [record.raw for record in read_dead_records(delivered.store, page)] == [""]


def test_exports_archives_erasures_and_restored_bodies_read_what_was_sent(
    delivered: DeliveredStore, tmp_path: Path
) -> None:
    store = delivered.store
    page = deliver_run(delivered)
    body = delivered.inbox.read_body(page)
    mixed = delivered.deliver("mixed", records=[{"id": "2", "account": "a7"}])
    values = {"account_source": "record", "integrated_account_id": ""}
    store.execute(update(deliveries).where(deliveries.c.id == mixed).values(values))

    lines = list(DeliveryExport(store, DeliveryFilter()).read_lines())
    assert sum(NAME.encode() in (line or b"") for line in lines) == 3
    assert AccountData(store, "a7", until=NOW + timedelta(days=1)).count().bodies == 1
    assert AccountData(store, "a8", until=NOW + timedelta(days=1)).count().bodies == 0

    store.execute(update(deliveries).where(deliveries.c.id == page).values(state="settled"))
    archive = Archive(f"file://{tmp_path}/archive")
    removed = list(prune(store, before=NOW + timedelta(days=1), archive=archive, clock=lambda: NOW))
    assert sum(count.deliveries for count in removed) >= 1
    assert not archive.damaged
    assert list(stream_body(store, page)) == []
    assert PrunedBodies(store).restore(page, body)
    assert delivered.inbox.read_body(page) == body
    assert all(find_key_id(value) == OLD.id for value in read_values(delivered))


def test_rotation_encrypts_every_value_with_the_current_key(delivered: DeliveredStore) -> None:
    page = deliver_run(delivered)
    delivered.store.keyring = Keyring()
    plain = deliver_run(delivered, "plain")
    delivered.store.keyring = ROTATED
    deliver_run(delivered, "new")
    # While two keys are in use, equal messages are one group.
    assert_readable(delivered, page)
    assert_readable(delivered, plain, "plain")

    number = KeyRotation(delivered.store).count()
    rotated = rotate(delivered)

    # The rows of two runs: three bodies, two dead records, two record errors.
    assert number == rotated.rotated == 2 * 7
    assert KeyRotation(delivered.store).count() == 0
    assert [key.id for key in EncryptionKeys(delivered.store).list_in_use()] == [OLD.id, NEW.id]
    assert {find_key_id(value) for value in read_values(delivered)} == {NEW.id}
    delivered.store.keyring = Keyring((NEW,))
    assert_readable(delivered, page)
    assert_readable(delivered, plain, "plain")


def test_messages_of_two_keys_are_one_group(delivered: DeliveredStore) -> None:
    error = {"message": MESSAGE}
    delivered.deliver("1", "record_error", error=error)
    delivered.store.keyring = ROTATED
    delivered.deliver("2", "record_error", error=error)
    delivered.store.keyring = Keyring((NEW, OLD), is_off=True)
    delivered.deliver("3", "record_error", error=error)

    [group] = group_record_errors(delivered.store, "r").groups

    assert (group.message, group.number) == (MESSAGE, 3)


def test_turned_off_rotation_decrypts_every_value(delivered: DeliveredStore) -> None:
    page = deliver_run(delivered)
    delivered.store.keyring = Keyring((OLD,), is_off=True)

    assert KeyRotation(delivered.store).count() == rotate(delivered).rotated == 7

    assert {find_key_id(value) for value in read_values(delivered)} == {None}
    delivered.store.keyring = Keyring()
    assert_readable(delivered, page)


def test_an_interrupted_rotation_continues(
    delivered: DeliveredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [deliver_run(delivered, f"r{number}") for number in range(3)]
    delivered.store.keyring = ROTATED
    monkeypatch.setattr("app.store.key_rotation._PAGE_ROWS", 2)
    for _ in islice(KeyRotation(delivered.store).rotate(), 3):
        pass
    for number, page in enumerate(pages):
        assert_readable(delivered, page, f"r{number}")

    assert rotate(delivered).rotated == 3 * 7 - 3 * 2

    delivered.store.keyring = Keyring((NEW,))
    for number, page in enumerate(pages):
        assert_readable(delivered, page, f"r{number}")


def change_during_rotation(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Call a function once, between the reading of the first row and its writing."""
    encrypt, changes = Keyring.encrypt, [change]

    def encrypt_later(keyring: Keyring, plain: bytes, context: bytes) -> bytes:
        if changes:
            changes.pop()()
        return encrypt(keyring, plain, context)

    monkeypatch.setattr(Keyring, "encrypt", encrypt_later)


def test_a_body_that_is_removed_during_a_rotation_does_not_come_back(
    delivered: DeliveredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = delivered.deliver("1", records=[{"id": "1"}])
    delivered.store.keyring = ROTATED
    where = deliveries.c.id == page
    change_during_rotation(
        monkeypatch, lambda: delivered.store.execute(update(deliveries).where(where).values(body=b""))
    )

    assert rotate(delivered) == RotatedRows()

    assert delivered.read_bodies() == {page: b""}


def test_a_damaged_or_moved_value_is_reported_and_left(delivered: DeliveredStore) -> None:
    first, second = (delivered.deliver(name, records=[{"id": name}]) for name in "12")
    stolen = delivered.read_bodies()[first]
    delivered.store.execute(update(deliveries).where(deliveries.c.id == second).values(body=stolen))

    with pytest.raises(ValueError, match="belongs to another row"):
        delivered.inbox.read_body(second)
    export = DeliveryExport(delivered.store, DeliveryFilter())
    assert len([line for line in export.read_lines() if line]) == 1
    assert export.damaged == [second]
    delivered.store.keyring = ROTATED
    assert rotate(delivered) == RotatedRows(rotated=1, damaged=1)
    assert delivered.read_bodies()[second] == stolen


def test_a_missing_key_delays_its_delivery_and_no_other(delivered: DeliveredStore) -> None:
    waiting = delivered.put("1", records=[{"id": "1"}])
    delivered.store.keyring = Keyring((NEW,))
    other = delivered.put("2", records=[{"id": "2"}])

    delivered.worker.deliver([waiting, other])

    rows = {row.id: row for row in delivered.store.read(select(deliveries))}
    assert (rows[waiting].state, rows[waiting].reason) == ("pending", "encryption_key_missing")
    assert rows[other].state == "settled"
    with pytest.raises(EncryptionKeyMissing):
        list(DeliveryExport(delivered.store, DeliveryFilter()).read_lines())
    delivered.store.keyring = ROTATED
    make_due = update(deliveries).where(deliveries.c.id == waiting)
    delivered.store.execute(make_due.values(due_at=NOW, leased_until=None))
    delivered.worker.deliver([waiting])
    assert {row.state for row in delivered.store.read(select(deliveries.c.state))} == {"settled"}


def test_keys_in_use_must_be_set_until_they_are_removed(delivered: DeliveredStore) -> None:
    store, keys = delivered.store, EncryptionKeys(delivered.store)
    refuse_missing_keys(store)
    deliver_run(delivered)

    for keyring in (Keyring(), Keyring((NEW,))):
        store.keyring = keyring
        with pytest.raises(ConfigError, match=f"keys that are not set: {OLD.id}"):
            refuse_missing_keys(store)
    store.keyring = ROTATED
    refuse_missing_keys(store)
    rotate(delivered)
    keys.remove([OLD.id])
    store.keyring = Keyring((NEW,))
    refuse_missing_keys(store)


def test_a_key_is_recorded_before_anything_is_encrypted_with_it(
    delivered: DeliveredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(delivered.inbox, "_write", fail)
    with suppress(RuntimeError):
        delivered.put("1", records=[])

    [key] = EncryptionKeys(delivered.store).list_in_use()
    assert (key.id, key.is_current, key.is_configured) == (OLD.id, True, True)


def test_an_old_key_is_recorded_again_while_a_process_still_uses_it(
    delivered: DeliveredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.store.encryption_keys._REGISTER_INTERVAL_S", 0.0)
    keys = EncryptionKeys(delivered.store)
    delivered.put("1", records=[])
    keys.remove([OLD.id])

    delivered.put("2", records=[])

    assert [key.id for key in keys.list_in_use()] == [OLD.id]


def test_an_unencrypted_store_reads_the_same_and_records_no_key(delivered: DeliveredStore) -> None:
    delivered.store.keyring = Keyring()
    page = deliver_run(delivered)

    assert_readable(delivered, page)
    assert not any(is_encrypted(body) for body in delivered.read_bodies().values())
    assert EncryptionKeys(delivered.store).list_in_use() == []
    assert replace(OLD_RING, is_off=True).encrypt(b"x", b"") == b"x"
