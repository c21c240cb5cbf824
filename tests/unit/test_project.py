"""The rules of the house that a machine can check."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGES = ("app", "workers")

# The layers, lowest first: a package imports itself and the packages named beside it, nothing else.
_BASE = ("app.errors", "app.logs", "app.plural")
_PROTOCOL = (*_BASE, "app.truto", "app.config", "app.database")
_STORE = (*_PROTOCOL, "app.notify", "app.store", "app.redis")
_LOGIC = (*_STORE, "app.sinks", "app.runs", "app.replay", "app.checks", "app.erasure")
MAY_IMPORT = {
    "app.errors": (),
    "app.logs": (),
    "app.plural": (),
    "app.times": ("app.truto",),
    "app.truto": ("app.errors",),
    "app.notify": ("app.errors", "app.config.notify"),
    "app.config": _BASE,
    "app.database": ("app.errors",),
    "app.redis.queue": ("app.errors",),
    "app.redis": ("app.errors", "app.store", "app.truto"),
    "app.store": ("app.errors", "app.truto", "app.database"),
    "app.sinks": (*_PROTOCOL, "app.store.schema"),
    "app.runs": (*_STORE,),
    "app.replay": (*_PROTOCOL, "app.store", "app.redis", "app.times"),
    "app.simulator": ("app.errors", "app.truto"),
    # The web process loads no sink.
    "app.web": (*_STORE, "app.runs"),
    "app.erasure": (*_STORE, "app.sinks"),
    "app.checks": (*_STORE, "app.sinks", "app.runs", "app.simulator"),
    "app.cli.worker": ("app", "workers"),
    "app.cli": ("app",),
    "workers": _LOGIC,
}

# The only packages that may import a library.
KEPT_IN = {
    "flask": ("app.web",),
    "rq": ("app.redis.queue", "workers.main", "workers.jobs"),
    "sqlalchemy": ("app.database", "app.store", "app.sinks.sql"),
    "alembic": ("app.store",),
    "click": ("app.cli",),
    "gevent": ("app.web",),
    "gunicorn": ("app.web.gunicorn_worker", "app.web.request_body"),
    "dotenv": ("app.config.settings",),
    "msgspec": ("app.store.bulk_insert", "app.truto.events", "app.truto.records", "app.sinks.sql.keys"),
}


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in packages)


def _sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield module, ast.parse(path.read_text())


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def test_imports_point_one_way() -> None:
    astray = []
    for module, tree in _sources():
        room = next((room for room in MAY_IMPORT if _is_in(module, (room,))), None)
        if room is None:
            assert module in PACKAGES, f"{module} has no rule yet"
            continue
        astray += [
            f"{module} imports {imported}"
            for imported in _imports(tree)
            if _is_in(imported, PACKAGES) and not _is_in(imported, (room, *MAY_IMPORT[room]))
        ]
    assert not astray


def test_libraries_stay_in_their_rooms() -> None:
    astray = [
        f"{module} imports {imported}"
        for module, tree in _sources()
        for imported in _imports(tree)
        for library, rooms in KEPT_IN.items()
        if _is_in(imported, (library,)) and not _is_in(module, rooms)
    ]
    assert not astray


@pytest.mark.parametrize(
    ("begin", "unneeded"),
    [
        (
            "from app.cli import main; main(['--help'], standalone_mode=False)",
            ("sqlalchemy", "httpx", "alembic"),
        ),
        ("import app.web.application", ("alembic", "workers", "httpx")),
        (
            # Not the forwarder: httpx loads click for a command of its own.
            "import app.replay.preview, app.replay.redeliver, app.replay.importer",
            ("click", "app.cli", "workers", "httpx"),
        ),
    ],
    ids=["help", "web", "replay"],
)
def test_nothing_heavy_is_loaded_without_need(begin: str, unneeded: tuple[str, ...]) -> None:
    tell = f"import sys; print([name for name in {unneeded} if name in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", f"{begin}; {tell}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout.endswith("[]\n"), ran.stdout + ran.stderr


def test_only_the_configuration_reads_the_environment() -> None:
    readers = {
        module
        for module, tree in _sources()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    }
    assert readers == {"app.config.settings"}


@pytest.mark.parametrize(
    "command",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)],
    ids="-".join,
)
def test_the_code_is_clean(command: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("pins", ["requirements.txt", "constraints.txt"])
def test_the_pins_fit_the_ranges(pins: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    if pins == "constraints.txt":
        extras = project["optional-dependencies"].values()
        wanted += [Requirement(line) for lines in extras for line in lines]
    pinned = dict(
        line.split(" ")[0].split("==") for line in (ROOT / pins).read_text().splitlines() if "==" in line
    )
    misfits = [str(need) for need in wanted if not need.specifier.contains(pinned.get(need.name, "0"))]
    assert not misfits, f"run .ci/lock: {pins} does not fit {misfits}"


def test_the_pins_name_no_registry() -> None:
    for pins in ("requirements.txt", "constraints.txt"):
        assert "://" not in (ROOT / pins).read_text()
