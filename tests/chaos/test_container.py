"""The containers of a soak: two of them share a host name and process ids."""

import subprocess
import sys

import pytest

from tests.support.container import build_container_command, can_run_containers

pytestmark = pytest.mark.chaos

PRINT_NAME = "import os, socket; print(socket.gethostname(), os.getpid())"


@pytest.mark.skipif(
    not can_run_containers(),
    reason="this user cannot create namespaces: the soak omits the fault `worker killed beside its namesake`",
)
def test_two_containers_have_the_same_host_name_and_process_ids() -> None:
    command = build_container_command([sys.executable, "-c", PRINT_NAME], "worker")

    names = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]

    assert names == [names[0]] * 2
    assert names[0].startswith("worker ")
