"""Children live as long as their supervisor wants, and no longer."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.supervisor import Supervisor
from tests.servers.processes import descendants, is_alive
from tests.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)",
]


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """The processes that a test started: not those of the session."""
    others = set(descendants(os.getpid()))
    return lambda: {pid for pid in descendants(os.getpid()) if is_alive(pid)} - others


def started(folder: Path, count: int = 1) -> None:
    log = folder / "rapidbridge.log"
    wait_until(lambda: log.exists() and log.read_text().count("here") >= count, what="children to start")


def test_a_stubborn_child_is_killed_after_the_grace(tmp_path: Path, children: Callable[[], set[int]]) -> None:
    with Supervisor(tmp_path, grace_s=0.3) as supervisor:
        supervisor.start("stubborn", STUBBORN, os.environ)
        started(tmp_path)
        assert len(children()) == 1

    assert children() == set()


def test_a_child_that_ends_is_started_again(tmp_path: Path, children: Callable[[], set[int]]) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("child", SLEEP, os.environ)
        started(tmp_path)
        [child] = children()
        os.kill(child, signal.SIGKILL)

        def is_back() -> bool:
            supervisor.watch()
            return bool(children() - {child})

        wait_until(is_back)
        started(tmp_path, count=2)


def test_a_fault_in_the_loop_ends_the_children_too(tmp_path: Path, children: Callable[[], set[int]]) -> None:
    def fail() -> None:
        started(tmp_path)
        raise RuntimeError("the loop broke")

    def supervise() -> None:
        with Supervisor(tmp_path) as supervisor:
            supervisor.start("child", SLEEP, os.environ)
            supervisor.run(fail, every_s=1)

    with pytest.raises(RuntimeError, match="the loop broke"):
        supervise()

    assert children() == set()


def test_a_signal_ends_the_loop_and_handlers_are_put_back(
    tmp_path: Path, children: Callable[[], set[int]]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("child", SLEEP, os.environ)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        supervisor.run(lambda: None, every_s=0.1)

    assert signal.getsignal(signal.SIGTERM) is before
    assert children() == set()


def test_children_are_stopped_in_the_reverse_order_of_their_start(
    tmp_path: Path, children: Callable[[], set[int]]
) -> None:
    say = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('end', sys.argv[1], flush=True), sys.exit())); print('here', flush=True); time.sleep(60)"
    with Supervisor(tmp_path) as supervisor:
        for name in "abc":
            supervisor.start(name, [sys.executable, "-c", say, name], os.environ)
        started(tmp_path, count=3)

    ends = [
        line[-1] for line in (tmp_path / "rapidbridge.log").read_text().splitlines() if line.startswith("end")
    ]
    assert ends == ["c", "b", "a"]
