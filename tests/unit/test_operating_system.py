"""The resources that a web process takes from the operating system, and doctor's check of them."""

import resource
import socket
from pathlib import Path

import pytest

from app.checks.check_result import CheckLevel
from app.checks.open_files import check_open_files, evaluate_open_files
from app.cli.local.ports import find_free_port, require_free_port
from app.config.operating_system import (
    MAX_CONNECTIONS,
    bind_address,
    compute_max_connections,
    compute_max_files,
    find_heartbeat_folder,
    list_wildcard_addresses,
)
from app.errors import ConfigError

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (256, 256, 256),
        (1024, 4096, 4096),
        (1024, 1_000_000_000, 4096),
        (256, UNLIMITED, 4096),
        (UNLIMITED, UNLIMITED, 4096),
        (20_000, 20_000, 20_000),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_it_is_of_use(soft: int, hard: int, expected: int) -> None:
    assert compute_max_files(soft, hard) == expected


@pytest.mark.parametrize("max_files", [1, 64, 128, 256, 512, 1024, 4096])
@pytest.mark.parametrize("listeners", [1, 2])
def test_connections_leave_files_for_the_process_itself(max_files: int, listeners: int) -> None:
    connections = compute_max_connections(max_files, listeners=listeners)

    assert 1 <= connections <= MAX_CONNECTIONS
    assert connections == 1 or connections * listeners <= max_files - 64


@pytest.mark.parametrize(("max_files", "level"), [(256, "warn"), (600, "warn"), (608, "ok"), (4096, "ok")])
def test_a_low_limit_of_open_files_is_a_warning(max_files: int, level: CheckLevel) -> None:
    result = evaluate_open_files(max_files, listeners=2)

    assert result.level == level
    assert ("ulimit -n 608" in result.advice) == (level == "warn")


def test_the_limit_of_open_files_is_checked_here() -> None:
    [result] = check_open_files()
    assert (result.component, result.check) == ("web", "files")


def test_without_a_folder_in_memory_another_one_is_used(tmp_path: Path) -> None:
    assert find_heartbeat_folder(tmp_path) == tmp_path
    other = find_heartbeat_folder(tmp_path / "missing")
    assert other is not None
    assert other.is_dir()


@pytest.mark.parametrize("address", list_wildcard_addresses())
def test_a_port_that_is_in_use_is_reported(address: str) -> None:
    port = find_free_port()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        bind_address(listener, address, port)
        listener.listen()

        with pytest.raises(ConfigError, match=f"PORT: {port} is not available"):
            require_free_port(port)
