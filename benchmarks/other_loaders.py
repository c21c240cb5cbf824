"""dlt and Meltano's target-postgres, each installed into a virtual environment of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from sqlalchemy import make_url

from benchmarks.loader_inputs import PassFiles
from benchmarks.payloads import TABLE

SCHEMA = "loaded"
_DLT = (
    "dlt[postgres]==1.31.0",
    "pyarrow==26.0.1",
    "adbc-driver-manager==1.13.0",
    "adbc-driver-postgresql==1.13.0",
)
_INSTALL_TIMEOUT_S = 600.0
_TARGET = ("meltanolabs-target-postgres==0.8.1",)


@dataclass(frozen=True, slots=True)
class OtherLoader:
    """A loader in one setting.

    requirements: the loader first. shape: of the table, a column for each field or one JSON column for the
    record. setting: the word for it in the arguments of the loader's module.
    """

    name: str
    requirements: tuple[str, ...]
    module: str
    shape: Literal["columns", "json"]
    setting: str

    def build_command(
        self, environment: Path, url: str, passes: Sequence[PassFiles], folder: Path
    ) -> list[str]:
        """Return the command that loads the files of the passes into a database."""
        parsed = make_url(url)
        start = [str(environment / "bin" / "python"), "-m", self.module]
        if self.module == "benchmarks.dlt_load":
            # dlt requires a password, and a host even if libpq is given the socket's folder.
            host = str(parsed.query["host"]).replace("/", "%2F")
            address = f"postgresql://postgres:none@{host}/{parsed.database}"
            return [*start, address, SCHEMA, TABLE, self.setting, *[str(files.bodies) for files in passes]]
        settings = {
            "sqlalchemy_url": f"postgresql+psycopg://postgres@/{parsed.database}?host={parsed.query['host']}",
            "default_target_schema": SCHEMA,
            "use_copy": True,
            "batch_size_rows": 10_000,
            "load_method": "upsert",
            "validate_records": False,
            "add_record_metadata": False,
            "activate_version": False,
        }
        file = folder / f"{parsed.database}.json"
        file.write_text(json.dumps(settings))
        inputs = [files.singer_json if self.shape == "json" else files.singer_columns for files in passes]
        return [*start, str(file), *map(str, inputs)]


OTHER_LOADERS = (
    OtherLoader("dlt, dictionaries", _DLT, "benchmarks.dlt_load", "columns", "rows"),
    OtherLoader("dlt, Arrow and ADBC", _DLT, "benchmarks.dlt_load", "json", "arrow"),
    OtherLoader("target-postgres, fields", _TARGET, "benchmarks.target_load", "columns", "columns"),
    OtherLoader("target-postgres, JSON", _TARGET, "benchmarks.target_load", "json", "json"),
)


@cache
def install(environments: Path, requirements: tuple[str, ...]) -> Path | str:
    """Return the virtual environment of the packages, made at the first call; or the reason of a failure."""
    name = requirements[0].replace("[postgres]", "").replace("==", "-")
    environment = environments / name
    marker = environment / "installed"
    if marker.exists() and marker.read_text().split() == list(requirements):
        return environment
    print(f"installing {name}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(environment)],
        [str(environment / "bin" / "pip"), "install", "--quiet", *requirements],
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return f"{name} was not installed within {_INSTALL_TIMEOUT_S:g} s"
        except subprocess.CalledProcessError as error:
            return next(reversed(error.stderr.strip().splitlines()), f"{command[0]} failed")
    marker.write_text("\n".join(requirements))
    return environment
