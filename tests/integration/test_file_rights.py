"""Rights of the files that the programs create: private, unless the folder of a files sink says otherwise."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.local.ports import find_free_port
from app.config.routes import Route
from tests.support.files import open_files
from tests.support.processes import ROOT, Command
from tests.support.sent_records import send, write
from tests.support.waiting import wait_until
from tests.support.web_process import make_environment

ROUTES = """
[sinks.main]
type = "sql"
url = "$DATABASE_URL"

[sinks.second]
type = "sql"
url = "sqlite:///second/rows.db"

[sinks.lake]
type = "files"
url = "file://{folder}/lake"
max_file_age_s = 1

[sinks.parquet]
type = "files"
url = "file://{folder}/parquet"
format = "parquet"
max_file_age_s = 1

[sinks.warehouse]
type = "warehouse"
destination = "duckdb"
credentials = "{folder}/warehouse.duckdb"
max_file_age_s = 1

[[routes]]
sinks = ["main", "second", "lake", "parquet", "warehouse"]
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Valkey's socket needs a short path.
    with tempfile.TemporaryDirectory(prefix="rb-") as name:
        Path(name, "tmp").mkdir(mode=0o700)
        yield Path(name)


@pytest.fixture
def private_umask() -> Iterator[None]:
    """The umask of the programs, inside of this process."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def list_paths(folder: Path) -> list[Path]:
    return [Path(parent, name) for parent, folders, names in os.walk(folder) for name in (*folders, *names)]


def find_open_paths(folder: Path) -> dict[str, str]:
    """Return what other users may do with the files and folders inside of a folder."""
    found = {}
    for path in list_paths(folder):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if mode & 0o077:
            found[str(path.relative_to(folder))] = stat.filemode(mode)
    return found


def test_every_file_of_the_programs_is_private_whatever_the_umask(folder: Path, tmp_path: Path) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text(ROUTES.format(folder=folder))
    port = find_free_port()
    environment = make_environment(PORT=str(port), ROUTES_FILE=str(routes)) | {
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(ROOT),
    }

    def run(*words: str) -> None:
        ran = subprocess.run(
            [sys.executable, "-m", "app.cli", *words],
            cwd=folder,
            env=environment,
            umask=0,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    with Command(["app.cli", "up"], folder=tmp_path, cwd=folder, environment=environment, umask=0) as up:
        up.wait_for("RapidBridge receiver is up")
        run("simulate", "--records", "300")
        expected = ("lake/**/*.gz", "parquet/**/*.parquet", "warehouse.duckdb", "second/rows.db")
        wait_until(
            lambda: all(any(folder.glob(pattern)) for pattern in expected),
            timeout_s=120,
            what=lambda: f"files of all sinks\n{up.log}",
        )
        run("deliveries", "export", "--output", "export.jsonl.gz")
        run("support-bundle", "--output", "bundle.json")
        run("prune", "--older-than", "0d", "--archive", f"file://{folder}/archive", "--yes")
        while_running = find_open_paths(folder)
    names = {path.name for path in list_paths(folder)}

    assert while_running == {}
    assert find_open_paths(folder) == {}
    assert {
        "rapidbridge.db",
        "webhook-secret",
        "dashboard-password",
        "export.jsonl.gz",
        "bundle.json",
    } <= names
    assert any(folder.glob("archive/dt=*/*"))


@pytest.mark.usefixtures("private_umask")
@pytest.mark.parametrize(
    ("of_folder", "of_folders", "of_files"),
    [
        (None, 0o700, 0o600),
        (0o700, 0o700, 0o600),
        (0o750, 0o750, 0o640),
        (0o755, 0o755, 0o644),
        (0o2770, 0o2770, 0o660),
        # Others never write.
        (0o1777, 0o775, 0o664),
    ],
    ids=lambda mode: "missing" if mode is None else f"{mode:o}",
)
def test_files_can_be_read_by_those_who_can_read_the_folder_of_the_sink(
    tmp_path: Path, of_folder: int | None, of_folders: int, of_files: int
) -> None:
    lake = tmp_path / "lake"
    if of_folder is not None:
        lake.mkdir()
        lake.chmod(of_folder)

    write(open_files(lake), send([{"id": "1"}]), Route(sinks=("lake",)))

    modes = {
        (path.is_dir(), stat.S_IMODE(path.stat().st_mode))
        for path in lake.rglob("*")
        if path.parent.name != ".staging"
    }
    assert modes == {(True, of_folders), (False, of_files)}
