"""The loaders that a receiver could be built on: dlt and Meltano's target-postgres, loading a file.

Each is installed into a virtual environment of its own, once; only the load is measured, which includes the
start of its process: give it enough records that this does not decide.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import make_url

from benchmarks.payloads import TABLE, write_jsonl, write_singer
from benchmarks.round import Round, RoundTimer

SCHEMA = "loaded"
_DLT_VERSION = "1.31.0"
_TARGET_VERSION = "0.8.1"
_DLT_LOAD = Path(__file__).with_name("dlt_load.py")


@dataclass(frozen=True, slots=True)
class Loader:
    """One way to load a file. arguments: of dlt_load.py; none for target-postgres."""

    name: str
    environment: Path
    source: Path
    arguments: tuple[str, ...] = ()

    def load(self, url: str, records: int, *, postgres: int) -> Round:
        """Load the file into an empty database. postgres: the server's process id."""
        folder = self.source.parent
        command = self._command(url, folder)
        environment = os.environ | {
            "DLT_DATA_DIR": str(folder / "dlt"),
            # All traffic stays on this machine.
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        with self.source.open("rb") as source, (folder / "loaders.log").open("ab") as log:
            watch, before = RoundTimer(postgres=postgres), _children_cpu_s()
            code = subprocess.run(
                command, check=False, cwd=folder, env=environment, stdin=source, stdout=log, stderr=log
            ).returncode
            turn = watch.stop(records, client=_children_cpu_s() - before)
        assert code == 0, f"{self.name} failed:\n{(folder / 'loaders.log').read_text()[-3000:]}"
        return turn

    def _command(self, url: str, folder: Path) -> list[str]:
        parsed = make_url(url)
        programs, socket = self.environment / "bin", parsed.query["host"]
        if self.arguments:
            # dlt insists on a password, and on a host where libpq takes the socket's folder, too.
            address = f"postgresql://postgres:none@{str(socket).replace('/', '%2F')}/{parsed.database}"
            pipeline = [address, str(self.source), SCHEMA, TABLE, *self.arguments]
            # -P: what lies beside the script must not be taken for one of dlt's modules.
            return [str(programs / "python"), "-P", str(_DLT_LOAD), *pipeline]
        settings = {
            "sqlalchemy_url": f"postgresql+psycopg://postgres@/{parsed.database}?host={socket}",
            "default_target_schema": SCHEMA,
            "use_copy": True,
        }
        (folder / "target.json").write_text(json.dumps(settings))
        return [str(programs / "target-postgres"), "--config", str(folder / "target.json")]


def prepare_loaders(environments: Path, folder: Path, records: int) -> Iterator[Loader]:
    """Install the loaders and write the files they load. environments: kept for the next time."""
    dlt = _install(environments, "dlt", f"dlt[postgres]=={_DLT_VERSION}")
    target = _install(environments, "target-postgres", f"meltanolabs-target-postgres=={_TARGET_VERSION}")
    jsonl, singer = folder / "records.jsonl", folder / "records.singer"
    write_jsonl(jsonl, records)
    write_singer(singer, records)
    # As it comes: a table for each list inside of records.
    yield Loader(f"dlt {_DLT_VERSION}, merge", dlt, jsonl, ("merge", "insert_values", "nested"))
    # As fast as it can: lists and objects kept as JSON, as the SQL sink keeps them, and COPY.
    yield Loader(f"dlt {_DLT_VERSION}, merge, flat, COPY", dlt, jsonl, ("merge", "csv", "flat"))
    yield Loader(f"dlt {_DLT_VERSION}, append, flat, COPY", dlt, jsonl, ("append", "csv", "flat"))
    yield Loader(f"target-postgres {_TARGET_VERSION}, COPY", target, singer)


def _install(environments: Path, name: str, requirement: str) -> Path:
    place = environments / f"{name}-{requirement.rpartition('==')[2]}"
    installed = place / "installed"
    if not installed.exists():
        print(f"installing {requirement}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", requirement], check=True)
        installed.touch()
    return place


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
