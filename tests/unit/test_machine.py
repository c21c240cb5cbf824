"""The numbers of processes that suit a machine or a container."""

from pathlib import Path

import pytest

from app.checks.check_result import CheckLevel
from app.checks.settings import evaluate_processes
from app.config.machine import Machine, get_machine, read_machine
from app.config.settings import read_settings

MIB = 2**20
HOST = Machine(8, 16_384 * MIB)


def write(root: Path, files: dict[str, str]) -> Machine:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return read_machine(HOST.cores, HOST.memory_bytes, root)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, HOST),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}, HOST),
        (
            {
                "proc/self/cgroup": "0::/",
                "sys/fs/cgroup/memory.max": str(512 * MIB),
                "sys/fs/cgroup/cpu.max": "150000 100000",
            },
            Machine(2, 512 * MIB),
        ),
        (
            # A container that is shown its path on the host, which it cannot see.
            {"proc/self/cgroup": "0::/kubepods/pod1/c1", "sys/fs/cgroup/memory.max": str(256 * MIB)},
            Machine(8, 256 * MIB),
        ),
        (
            # A unit of systemd, with a limit of the slice above it.
            {
                "proc/self/cgroup": "0::/system.slice/web.service",
                "sys/fs/cgroup/system.slice/web.service/memory.max": "max",
                "sys/fs/cgroup/system.slice/web.service/cpu.max": "50000 100000",
                "sys/fs/cgroup/system.slice/memory.max": str(1024 * MIB),
            },
            Machine(1, 1024 * MIB),
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/app\n4:memory:/app\n0::/",
                "sys/fs/cgroup/memory/app/memory.limit_in_bytes": str(512 * MIB),
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "400000",
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            Machine(4, 512 * MIB),
        ),
    ],
    ids=["no groups", "no limits", "container", "path of the host", "unit in a slice", "version 1"],
)
def test_the_limits_of_control_groups_count(files: dict[str, str], expected: Machine, tmp_path: Path) -> None:
    assert write(tmp_path, files) == expected


@pytest.mark.parametrize(
    ("cores", "mib", "web", "workers"),
    [
        (1, 128, 1, 1),
        (8, 512, 2, 2),
        (1, 1024, 2, 1),
        (2, 4096, 2, 1),
        (4, 4096, 4, 2),
        (64, 65_536, 4, 4),
    ],
)
def test_the_default_numbers_of_processes_fit_cores_and_memory(
    cores: int, mib: int, web: int, workers: int
) -> None:
    machine = Machine(cores, mib * MIB)

    assert (machine.compute_web_concurrency(), machine.compute_worker_concurrency()) == (web, workers)


def test_settings_take_their_defaults_from_this_machine() -> None:
    settings = read_settings({})

    assert settings.web_concurrency == get_machine().compute_web_concurrency()
    assert settings.worker_concurrency == get_machine().compute_worker_concurrency()


@pytest.mark.parametrize(("web", "workers", "level"), [(4, 4, "ok"), (5, 1, "warn"), (1, 5, "warn")])
def test_more_processes_than_the_memory_holds_are_a_warning(
    web: int, workers: int, level: CheckLevel
) -> None:
    settings = read_settings({"WEB_CONCURRENCY": str(web), "WORKER_CONCURRENCY": str(workers)})

    result = evaluate_processes(settings, Machine(2, 512 * MIB))

    assert result.level == level
    assert "2 cores and 512 MiB" in result.message
    assert ("WEB_CONCURRENCY" in result.advice) == (web == 5)
    assert ("WORKER_CONCURRENCY" in result.advice) == (workers == 5)
