"""The layers of the packages, the places of the libraries, and the pinned versions."""

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
_BASE = (
    "app.errors",
    "app.encryption",
    "app.logs",
    "app.clock",
    "app.backoff",
    "app.plural",
    "app.folder_sync",
    "app.garbage_collection",
    "app.http_client",
    "app.standard_webhooks",
    "app.tracing",
)
_PROTOCOL = (*_BASE, "app.truto", "app.config", "app.database")
_STORE = (*_PROTOCOL, "app.times", "app.notify", "app.store", "app.redis")
_LOGIC = (*_STORE, "app.routing", "app.sinks", "app.runs", "app.replay", "app.checks", "app.erasure")
MAY_IMPORT = {
    "app.errors": (),
    "app.encryption": ("app.errors",),
    "app.logs": ("app.backoff", "app.log_lines"),
    "app.log_lines": (),
    "app.clock": (),
    "app.plural": (),
    "app.backoff": (),
    "app.folder_sync": (),
    "app.garbage_collection": (),
    "app.http_client": ("app.public_address",),
    "app.public_address": (),
    "app.standard_webhooks": (),
    "app.tracing": ("app.logs",),
    "app.truto": _BASE,
    "app.times": ("app.truto",),
    "app.expressions": ("app.truto",),
    "app.notify": (*_BASE, "app.config.notify"),
    "app.config": (*_BASE, "app.expressions"),
    "app.database": _BASE,
    "app.redis.connection": _BASE,
    "app.redis.queue": (*_BASE, "app.redis.connection"),
    "app.redis": (*_BASE, "app.store", "app.truto"),
    "app.store": (*_BASE, "app.truto", "app.database"),
    "app.sinks": (*_PROTOCOL, "app.store.schema"),
    "app.sink_contract": (*_BASE, "app.config", "app.truto", "app.routing", "app.sinks.base"),
    "app.routing": (*_PROTOCOL, "app.expressions", "app.sinks.base"),
    "app.runs": _STORE,
    "app.replay": _STORE,
    "app.erasure": (*_STORE, "app.sinks"),
    "app.simulator": (*_BASE, "app.truto"),
    "app.webhook_probe": _STORE,
    "app.checks": (*_STORE, "app.routing", "app.sinks", "app.runs", "app.simulator"),
    # A page may call every function that a command calls.
    "app.web": (*_STORE, "app.runs", "app.replay", "app.checks"),
    "app.mcp_server": (*_STORE, "app.runs", "app.replay", "app.checks"),
    "app.cli.worker": ("app", "workers"),
    "app.cli": ("app",),
    "workers": _LOGIC,
}

# The only packages that may import a library.
ONLY_IN = {
    "flask": ("app.web",),
    "rq": ("app.redis.queue", "workers.main", "workers.jobs", "workers.rq_worker"),
    "sqlalchemy": ("app.database", "app.store", "app.sinks.sql"),
    "alembic": ("app.store",),
    "click": ("app.cli",),
    "gevent": ("app.web",),
    "gunicorn": ("app.web.gunicorn_worker", "app.web.gunicorn_log"),
    "prometheus_client": ("app.web.metrics", "app.web.request_metrics", "app.web.service_collector"),
    "dotenv": ("app.config.settings",),
    "mcp": ("app.mcp_server",),
    "opentelemetry": ("app.tracing",),
    "jmespath": ("app.expressions",),
    "cryptography": ("app.encryption",),
    "confluent_kafka": ("app.sinks.kafka", "app.sinks.kafka_errors"),
    "pytest": ("app.sink_contract.suite",),
    "pymysql": ("app.database.mysql_sessions", "app.sinks.sql.mysql"),
    "obstore": ("app.sinks.files.object_store",),
    "dlt": ("app.sinks.warehouse.dlt_process", "app.sinks.warehouse.dlt_errors"),
    "pyarrow": ("app.sinks.files.formats", "app.sinks.files.row_files", "app.sinks.warehouse.dlt_process"),
    "msgspec": (
        "app.log_lines",
        "app.sinks.base",
        "app.sinks.python",
        "app.sinks.sql.rows",
        "app.store.bulk_insert",
        "app.store.delivery_export",
        "app.truto.events",
        "app.truto.records",
    ),
}


def _is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _list_sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield module, ast.parse(path.read_text())


def _list_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def test_imports_point_one_way() -> None:
    violations = []
    for module, tree in _list_sources():
        layer = next((layer for layer in MAY_IMPORT if _is_in(module, (layer,))), None)
        if layer is None:
            assert module in PACKAGES, f"{module} has no rule in MAY_IMPORT"
            continue
        violations += [
            f"{module} imports {imported}"
            for imported in _list_imports(tree)
            if _is_in(imported, PACKAGES) and not _is_in(imported, (layer, *MAY_IMPORT[layer]))
        ]
    assert not violations


def test_libraries_are_imported_only_by_their_packages() -> None:
    violations = [
        f"{module} imports {imported}"
        for module, tree in _list_sources()
        for imported in _list_imports(tree)
        for library, packages in ONLY_IN.items()
        if _is_in(imported, (library,)) and not _is_in(module, packages)
    ]
    assert not violations


@pytest.mark.parametrize(
    ("start", "unneeded"),
    [
        (
            "from app.cli import main; main(['--help'], standalone_mode=False)",
            ("sqlalchemy", "httpx", "alembic"),
        ),
        ("import app.web.application", ("alembic", "workers", "app.sinks", "httpx")),
        (
            # gevent patches the modules that these import, after gunicorn has read the settings.
            "from app.config.load import read_config; read_config()",
            ("psycopg", "redis", "sqlalchemy", "ssl"),
        ),
        (
            # Not the forwarder: httpx loads click for a command of its own.
            "import app.replay.preview, app.replay.operations, app.replay.importer",
            ("click", "app.cli", "workers", "httpx"),
        ),
        (
            "import app.web.application, workers.main; from app.tracing import tracing; "
            "tracing.start('web', {}, version='1'); tracing.start_span('accept').set(records=1)",
            # redis-py imports other parts of the package, where it is installed.
            ("opentelemetry.exporter", "opentelemetry.sdk.trace.export"),
        ),
        (
            "from app.config.routes_file import read_routes; from app.sinks.registry import SinkRegistry; "
            "import app.sinks.probe, app.sinks.warehouse.sink, workers.main",
            ("dlt", "duckdb", "pyarrow", "confluent_kafka", "obstore"),
        ),
        ("import workers.main", ("alembic", "httpx", "flask")),
    ],
    ids=["help", "web", "settings", "replay", "without tracing", "sinks", "worker"],
)
def test_heavy_libraries_are_loaded_only_where_needed(start: str, unneeded: tuple[str, ...]) -> None:
    check = f"import sys; print([name for name in {unneeded} if name in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", f"{start}; {check}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.stdout.endswith("[]\n"), ran.stdout + ran.stderr


def test_the_store_is_opened_in_its_schema() -> None:
    calls = [
        (module, ast.unparse(node))
        for module, tree in _list_sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "open_database"
        and "settings" in ast.unparse(node)
    ]
    assert calls
    assert not [
        call for call in calls if "schema=settings.database_schema" not in call[1].replace("config.", "")
    ]


def test_only_the_configuration_reads_the_environment() -> None:
    readers = {
        module
        for module, tree in _list_sources()
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
def test_the_code_passes_its_linters(command: tuple[str, ...]) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("pins", ["requirements.txt", "constraints.txt"])
def test_the_pins_fit_the_ranges(pins: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [Requirement(line) for line in project["dependencies"]]
    if pins == "constraints.txt":
        extras = project["optional-dependencies"].values()
        required += [Requirement(line) for lines in extras for line in lines]
    pinned = dict(
        line.split(" ")[0].split("==") for line in (ROOT / pins).read_text().splitlines() if "==" in line
    )
    outdated = [
        str(requirement)
        for requirement in required
        if not requirement.specifier.contains(pinned.get(requirement.name, "0"))
    ]
    assert not outdated, f"{pins} does not fit {outdated}; run .ci/lock"


def test_the_pins_name_no_registry() -> None:
    for pins in ("requirements.txt", "constraints.txt"):
        assert "://" not in (ROOT / pins).read_text()


def test_the_sql_sink_loads_no_driver_before_it_knows_its_database() -> None:
    code = "import sys, app.sinks.sql.sink; print({'psycopg', 'pymysql'} & sys.modules.keys())"

    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert loaded.stdout == "set()\n"
