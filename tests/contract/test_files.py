"""The files sink: names, formats, complete files, and errors of the disk."""

import errno
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Literal
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from app.config.routes import ColumnConfig, Route
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.files import load_writer
from app.truto.records import read_records
from tests.support.files import list_paths, open_files, read_files, read_rows, read_text
from tests.support.sent_records import send, write

ROUTE = Route(sinks=("lake",))
LOAD = UUID(int=7)
FORMATS = [("jsonl", "none"), ("jsonl", "gzip"), ("jsonl", "zstd"), ("parquet", "gzip"), ("parquet", "zstd")]
DECIMALS = ("100000000000000000.01", "-0.1000000000000000055511151231257827", "1.10", "1.5e-400", "1e20")


def test_a_missing_folder_is_no_empty_folder(tmp_path: Path) -> None:
    sink = open_files(tmp_path / "lake")

    for ask in (sink.count, sink.erase):
        with pytest.raises(SinkUnavailable, match="is missing"):
            ask("a1")


def test_erasing_removes_folders_and_files_of_killed_workers(tmp_path: Path) -> None:
    sink = open_files(tmp_path / "lake")
    account = "a/../*" + "x" * 300
    write(sink, send([{"id": "1"}], account=account), ROUTE)
    write(sink, send([{"id": "1"}], account="other", number=2), ROUTE)
    [path, _] = list_paths(tmp_path / "lake")
    # As earlier releases left them.
    (path.parent / ".1.2.part").write_text("half")
    (path.parent / f"{UUID(int=3)}.jsonl").write_text('{"data": {}}\n')
    abandoned = tmp_path / "lake" / ".staging" / "killed"
    abandoned.mkdir()
    (abandoned / "0.part").write_text("half")
    os.utime(abandoned, (0, 0))

    assert sink.count(account) == 2
    assert sink.erase(account) == 2

    [left] = list_paths(tmp_path / "lake")
    assert "account=other" in str(left)
    assert sink.count(account) == 0


def test_a_path_names_resource_account_day_and_load(tmp_path: Path) -> None:
    sink = open_files(tmp_path / "la ke", compression="none")

    write(sink, send([{"id": "1"}], account="../etc", resource="crm/con tacts"), ROUTE)

    [path] = list_paths(tmp_path)
    assert str(path.relative_to(tmp_path)) == (
        f"la ke/resource=crm%2Fcon%20tacts/account=%2E%2E%2Fetc/dt=2026-11-24/{UUID(int=1)}.jsonl"
    )
    [line] = read_rows(path.name, path.read_bytes())
    assert line["_version"] == "2026-11-24T12:00:00.000000+00:00"
    assert (line["_delivery"], line["_ordinal"], line["_is_deletion"]) == (str(UUID(int=1)), 0, False)


@pytest.mark.parametrize(("form", "compression"), FORMATS)
def test_names_of_any_length_and_kind_are_apart(tmp_path: Path, form: str, compression: str) -> None:
    sink = open_files(tmp_path / "lake", format=form, compression=compression)
    names = ("", "x" * 3000, "x" * 2999, "é" * 300, ".", "..", "a/b", "../../x", "select", "A", "a", "_none")

    for name in names:
        assert write(sink, send([{"id": "1"}], account=name, resource=name), ROUTE).written == 1

    assert len(list_paths(tmp_path)) == len(list_paths(tmp_path / "lake")) == len(names)
    rows = [row for path in list_paths(tmp_path) for row in read_rows(path.name, path.read_bytes())]
    assert sorted(row["_account"] for row in rows) == sorted(names)


@pytest.mark.parametrize(("form", "compression"), FORMATS)
def test_every_row_has_its_key_and_version_and_exact_numbers(
    tmp_path: Path, form: str, compression: str
) -> None:
    sink = open_files(tmp_path / "lake", format=form, compression=compression)
    body = f'{{"payload": {{"records": [{{"id": 1, "n": [{", ".join(DECIMALS)}]}}]}}}}'
    batch = read_records(body.encode())
    assert batch
    values = [value for _, value in batch.records]

    assert write(sink, send(values), ROUTE).written == 1

    [path] = list_paths(tmp_path)
    [row] = read_rows(path.name, path.read_bytes())
    assert (row["_account"], row["_key"]) == ("a1", "1")
    assert row["_vseq"].endswith("-00000000")
    assert str(row["_version"]).replace(" ", "T").startswith("2026-11-24T12:00:00")
    assert ",".join(DECIMALS) in read_text(path)


TYPES: Sequence[Literal["text", "integer", "number", "decimal", "boolean", "timestamp", "date", "json"]] = (
    "text",
    "integer",
    "number",
    "decimal",
    "boolean",
    "timestamp",
    "date",
    "json",
)


def test_parquet_has_typed_columns_of_the_route(tmp_path: Path) -> None:
    route = Route(sinks=("lake",), columns={f"c_{name}": ColumnConfig(type=name) for name in TYPES})
    good = {
        "id": "1",
        "c_text": "t",
        "c_integer": 2**53 + 1,
        "c_number": 1.5,
        "c_decimal": "12345678901234567890.000000000000000001",
        "c_boolean": True,
        "c_timestamp": "2026-01-02T03:04:05+02:00",
        "c_date": "2026-01-02",
        "c_json": {"a": [1]},
    }
    bad = {
        "id": "2",
        "c_integer": "x",
        "c_decimal": "1e20",
        "c_timestamp": "yesterday",
        "c_date": 5,
        "c_boolean": "perhaps",
    }
    sink = open_files(tmp_path / "lake", format="parquet")

    result = write(sink, send([good, bad]), route)

    assert result.written == 2
    assert result.misfits == {"c_integer": 1, "c_decimal": 1, "c_timestamp": 1, "c_date": 1, "c_boolean": 1}
    [path] = list_paths(tmp_path)
    first, second = pq.read_table(path).to_pylist()
    assert first["c_integer"] == 2**53 + 1
    assert first["c_timestamp"] == datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC)
    assert first["c_date"] == date(2026, 1, 2)
    assert first["c_decimal"] == Decimal("12345678901234567890.000000000000000001")
    assert (first["c_text"], first["c_number"], first["c_boolean"], first["c_json"]) == (
        "t",
        1.5,
        True,
        '{"a":[1]}',
    )
    assert {second[f"c_{name}"] for name in TYPES} == {None}


def test_routes_of_one_resource_with_other_columns_get_other_files(tmp_path: Path) -> None:
    sink = open_files(tmp_path / "lake", format="parquet")
    typed = Route(sinks=("lake",), columns={"n": ColumnConfig(type="integer")})
    writer = sink.begin_load(LOAD)
    for number, route in enumerate((ROUTE, typed, ROUTE, typed)):
        writer.add(send([{"id": str(number), "n": number}]).build_batch(route), route)
    writer.prepare()
    writer.commit(earlier="")
    writer.close()

    assert [path.name for path in list_paths(tmp_path)] == [f"{LOAD}-2.parquet", f"{LOAD}.parquet"]
    assert sorted(record["id"] for record in read_files(tmp_path)) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_many_partitions_in_turn_need_few_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(load_writer, "_MAX_OPEN_FILES", 3)
    monkeypatch.setattr(load_writer, "_MAX_BUFFERED_BYTES", 1000)
    sink = open_files(tmp_path / "lake", format=form)
    writer, before = sink.begin_load(LOAD), count_open()
    for number in range(40):
        sent = send([{"id": str(number), "text": "x" * 300}], account=f"a{number % 8}", number=number)
        writer.add(sent.build_batch(ROUTE), ROUTE)
        assert count_open() - before <= 4
    writer.prepare()
    assert not list((tmp_path / "lake").glob("resource=*"))
    writer.commit(earlier="")
    writer.close()

    assert sorted(int(record["id"]) for record in read_files(tmp_path)) == list(range(40))


def count_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_repeated_load_replaces_its_files_and_removes_those_that_it_lacks(tmp_path: Path) -> None:
    sink = open_files(tmp_path / "lake", compression="none")
    first = sink.begin_load(LOAD)
    for account in ("a", "b"):
        first.add(send([{"id": "1"}], account=account).build_batch(ROUTE), ROUTE)
    prepared = first.prepare()
    first.commit(earlier="")
    first.close()

    # The data of account b was erased in between.
    again = sink.begin_load(LOAD)
    again.add(send([{"id": "1"}], account="a").build_batch(ROUTE), ROUTE)
    again.prepare()
    again.commit(earlier=prepared)
    again.close()

    assert [path.parent.parent.name for path in list_paths(tmp_path)] == ["account=a"]


def test_writers_with_one_process_id_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    records = [{"id": str(number), "text": "x" * 1000} for number in range(200)]

    def write_again(_: int) -> int:
        # As two containers write one load to a shared volume.
        return write(open_files(tmp_path), send(records), ROUTE).written

    with ThreadPoolExecutor(8) as writers:
        written = list(writers.map(write_again, range(32)))

    assert written == [200] * 32
    assert read_files(tmp_path) == records
    assert len(list_paths(tmp_path)) == 1


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    sink = open_files(tmp_path / "lake", compression="none")
    writer = sink.begin_load(LOAD)
    for number in range(20):
        batch = send([{"id": str(number), "text": "x" * 300_000}], number=number).build_batch(ROUTE)
        writer.add(replace(batch, account="a"), ROUTE)
        assert not list(tmp_path.rglob("*.jsonl"))
    writer.prepare()
    assert not list(tmp_path.rglob("*.jsonl"))
    writer.commit(earlier="")
    writer.close()

    assert len(read_files(tmp_path / "lake")) == 20


def test_an_unwritable_folder_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SinkRefused, match="ENOTDIR") as refusal:
        write(open_files(tmp_path / "file/lake"), send([{"id": "1"}]), ROUTE)

    assert refusal.value.reason == "sink_set_up"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_a_folder_takes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # As CIFS and some FUSE file systems answer.
    fail_fsync(monkeypatch, code, of_folders=True)

    assert write(open_files(tmp_path), send([{"id": "1"}]), ROUTE).written == 1

    assert read_files(tmp_path) == [{"id": "1"}]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
@pytest.mark.parametrize("of_folders", [True, False])
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.EIO, SinkUnavailable),
        (errno.ESTALE, SinkUnavailable),
        *[(code, SinkRefused) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)],
    ],
)
def test_a_failing_disk_never_counts_as_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    error: type[SinkUnavailable],
    form: str,
    *,
    of_folders: bool,
) -> None:
    fail_fsync(monkeypatch, code, of_folders=of_folders)

    with pytest.raises(error, match=errno.errorcode[code]) as failure:
        write(open_files(tmp_path, format=form), send([{"id": "1"}]), ROUTE)

    assert type(failure.value) is error


def fail_fsync(monkeypatch: pytest.MonkeyPatch, code: int, *, of_folders: bool) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) == of_folders:
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
