"""Compaction of files: fewer files, the newest versions, and no moment at which a row is missing."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest

from app.config.routes import ColumnConfig, Route
from app.sinks.base import Batch
from app.sinks.files.compaction import CompactionCounts, Compactor
from app.sinks.files.sink import FilesSink
from tests.support.files import list_paths, open_files, read_rows
from tests.support.s3_server import S3Server
from tests.support.sent_records import send, write, write_batch

ROUTE = Route(sinks=("lake",))
LATER = datetime.now(UTC) + timedelta(hours=1)
FORMATS = [("jsonl", "none"), ("jsonl", "gzip"), ("jsonl", "zstd"), ("parquet", "gzip")]


def compact(
    sink: FilesSink, *, before: datetime = LATER, open_loads: Sequence[UUID] = (), dry_run: bool = False
) -> CompactionCounts:
    compactor = Compactor(sink.store, compression="gzip", list_open_loads=lambda: {*open_loads})
    counts = CompactionCounts()
    for folder in compactor.list_folders():
        counts += compactor.compact(folder, before=before, dry_run=dry_run)
    return counts


def read_lake(folder: Path) -> list[dict[str, Any]]:
    return [row for path in list_paths(folder) for row in read_rows(path.name, path.read_bytes())]


def find_newest(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[Any, Any]]:
    """The newest data and the newest deletion of each record, as a reader finds them."""
    newest: dict[tuple[str, str], tuple[Any, Any]] = {}
    for row in sorted(rows, key=lambda row: (str(row["_version"]), row["_vseq"])):
        record = (row["_account"], row["_key"])
        data, _ = newest.get(record, (None, None))
        if row["_is_deletion"]:
            newest[record] = (data, row["_vseq"])
        else:
            newest[record] = (row["data"], None)
    return newest


def put_random(sink: FilesSink, number: int, *, seed: int = 1) -> None:
    """Write loads with versions of few records, out of order, on three days, with deletions."""
    random = Random(seed)
    for n in range(number):
        records = [{"id": str(random.randrange(6)), "n": n, "money": 0.1} for _ in range(3)]
        sent = send(
            records,
            number=n,
            at_s=random.randrange(20),
            is_deletion=random.random() < 0.3,
            account=random.choice(["a", "b"]),
            received_at=datetime(2026, 11, 24 + n % 3, tzinfo=UTC) + timedelta(microseconds=n),
        )
        write(sink, sent, ROUTE)


@pytest.mark.parametrize(("form", "compression"), FORMATS)
def test_a_compaction_keeps_the_newest_data_and_deletion_of_each_record(
    tmp_path: Path, form: str, compression: str
) -> None:
    sink = open_files(tmp_path, format=form, compression=compression)
    put_random(sink, 30)
    before = read_lake(tmp_path)

    counts = compact(sink)

    rows = read_lake(tmp_path)
    assert find_newest(rows) == find_newest(before)
    assert len({(row["_account"], row["_key"], row["_is_deletion"]) for row in rows}) == len(rows)
    assert (counts.files_before, counts.rows_before, counts.rows_after) == (30, len(before), len(rows))
    # One for each account and day at most.
    assert len(list_paths(tmp_path)) == counts.files_after <= 6
    assert {str(row["_received_at"])[:10] for row in rows} <= {"2026-11-24", "2026-11-25", "2026-11-26"}
    for path in list_paths(tmp_path):
        days = {str(row["_received_at"])[:10] for row in read_rows(path.name, path.read_bytes())}
        assert path.parent.name == f"dt={days.pop()}"
        assert not days
    # There is nothing left to do.
    assert compact(sink).rows_before == 0


def test_a_dry_run_and_files_of_open_or_new_loads_change_nothing(tmp_path: Path) -> None:
    sink = open_files(tmp_path)
    put_random(sink, 8)
    names = list_paths(tmp_path)

    counted = compact(sink, dry_run=True)
    compact(sink, before=datetime.now(UTC) - timedelta(minutes=10))
    compact(sink, open_loads=[UUID(int=n) for n in range(8)])

    assert list_paths(tmp_path) == names
    assert counted == compact(sink)
    assert counted.files_after < counted.files_before == 8


class _Crash(BaseException):
    pass


@pytest.mark.parametrize("function", ["open_staging", "fetch", "publish", "delete"])
@pytest.mark.parametrize("after", [False, True])
def test_a_compaction_killed_at_any_point_loses_and_doubles_nothing_for_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, after: bool
) -> None:
    sink = open_files(tmp_path)
    put_random(sink, 20)
    expected = find_newest(read_lake(tmp_path))
    original: Callable[..., Any] = getattr(sink.store, function)
    calls = 0

    def crash(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        result = original(*arguments) if after or calls == 1 else None
        if calls > 1:
            raise _Crash
        return result

    with monkeypatch.context() as patch:
        patch.setattr(sink.store, function, crash)
        with pytest.raises(_Crash):
            compact(sink)
    assert find_newest(read_lake(tmp_path)) == expected

    compact(sink)

    rows = read_lake(tmp_path)
    assert find_newest(rows) == expected
    assert len({(row["_account"], row["_key"], row["_is_deletion"]) for row in rows}) == len(rows)


def test_a_reader_at_any_moment_sees_the_newest_version_of_each_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = open_files(tmp_path)
    put_random(sink, 20)
    expected = find_newest(read_lake(tmp_path))
    seen = []

    def observe(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            result = original(*arguments)
            paths = [path for path in list_paths(tmp_path) if ".staging" not in path.parts]
            rows = [row for path in paths for row in read_rows(path.name, path.read_bytes())]
            seen.append(find_newest(rows))
            return result

        return call

    for function in ("publish", "delete"):
        monkeypatch.setattr(sink.store, function, observe(getattr(sink.store, function)))
    compact(sink)

    assert len(seen) > 4
    assert all(one == expected for one in seen)


@pytest.mark.parametrize("when", ["fetch", "publish", "list_files"])
def test_erased_records_do_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    sink, other = open_files(tmp_path), open_files(tmp_path)
    put_random(sink, 20)
    original: Callable[..., Any] = getattr(sink.store, when)
    is_erased = False

    def erase_first(*arguments: Any) -> Any:
        nonlocal is_erased
        if not is_erased:
            is_erased = True
            other.erase("a")
        return original(*arguments)

    monkeypatch.setattr(sink.store, when, erase_first)
    counts = compact(sink)

    assert other.count("a") == 0
    assert other.count("b") > 0
    assert counts.skipped <= 1


def test_an_unreadable_file_leaves_its_folder_unchanged(tmp_path: Path) -> None:
    sink = open_files(tmp_path)
    put_random(sink, 10)
    damaged = next(path for path in list_paths(tmp_path) if "account=a" in str(path))
    damaged.write_bytes(damaged.read_bytes()[:-10])
    before = [path for path in list_paths(tmp_path) if "account=a" in str(path)]

    counts = compact(sink)

    assert counts.skipped == 1
    assert [path for path in list_paths(tmp_path) if "account=a" in str(path)] == before


def test_files_of_several_formats_and_columns_are_merged_apart(tmp_path: Path) -> None:
    typed = Route(sinks=("lake",), columns={"n": ColumnConfig(type="integer")})
    for n, (form, route) in enumerate(
        [("jsonl", ROUTE), ("jsonl", ROUTE), ("parquet", ROUTE), ("parquet", typed), ("parquet", typed)]
    ):
        batch: Batch = send([{"id": str(n), "n": n}], number=n).build_batch(route)
        write_batch(open_files(tmp_path, format=form, compression="zstd"), batch, route)

    counts = compact(open_files(tmp_path))

    assert (counts.files_before, counts.files_after, counts.skipped) == (5, 3, 0)
    rows = read_lake(tmp_path)
    assert sorted(row["_key"] for row in rows) == [*"01234"]
    assert {row["_key"]: row.get("n") for row in rows if "n" in row} == {"3": 3, "4": 4}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    server = S3Server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    client = server.client()
    client.create_bucket(Bucket="lake")
    yield client
    server.clear()
    server.stop()


def test_objects_are_compacted(bucket: Any) -> None:
    sink = open_files("s3://lake/raw")
    put_random(sink, 12)

    def read() -> list[dict[str, Any]]:
        names = [entry["Key"] for entry in bucket.list_objects_v2(Bucket="lake")["Contents"]]
        contents = {name: bucket.get_object(Bucket="lake", Key=name)["Body"].read() for name in names}
        return [row for name, content in contents.items() for row in read_rows(name, content)]

    expected = find_newest(read())
    counts = compact(sink)

    assert find_newest(read()) == expected
    assert counts.files_after < counts.files_before == 12
    assert bucket.list_objects_v2(Bucket="lake")["KeyCount"] == counts.files_after
