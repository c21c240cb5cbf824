"""The supervisor restarts its children, and leaves none behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.cli.local.supervisor import Supervisor
from tests.support.processes import ROOT, find_descendants, is_alive
from tests.support.waiting import wait_until

SLEEP = [sys.executable, "-c", "import time; print('here', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('here', flush=True); time.sleep(60)",
]


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """Return the processes that the test started, without those of the test session."""
    others = set(find_descendants(os.getpid()))
    return lambda: {pid for pid in find_descendants(os.getpid()) if is_alive(pid)} - others


def wait_until_started(folder: Path, count: int = 1) -> None:
    log = folder / "rapidbridge.log"
    wait_until(lambda: log.exists() and log.read_text().count("here") >= count, what="children to start")


def test_a_stubborn_child_is_killed_after_the_grace(tmp_path: Path, children: Callable[[], set[int]]) -> None:
    with Supervisor(tmp_path, grace_s=0.3) as supervisor:
        supervisor.start("stubborn", STUBBORN, os.environ)
        wait_until_started(tmp_path)
        assert len(children()) == 1

    assert children() == set()


def test_a_child_that_exits_is_restarted(tmp_path: Path, children: Callable[[], set[int]]) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("child", SLEEP, os.environ)
        wait_until_started(tmp_path)
        [child] = children()
        os.kill(child, signal.SIGKILL)

        def is_back() -> bool:
            supervisor.restart_exited()
            return bool(children() - {child})

        wait_until(is_back)
        wait_until_started(tmp_path, count=2)


def test_an_exception_in_the_loop_stops_the_children(
    tmp_path: Path, children: Callable[[], set[int]]
) -> None:
    def fail(_pid: int) -> None:
        raise RuntimeError("the loop broke")

    def supervise() -> None:
        with Supervisor(tmp_path) as supervisor:
            supervisor.start("child", SLEEP, os.environ)
            supervisor.start("brief", [sys.executable, "-c", "pass"], os.environ, on_exit=fail)
            supervisor.run()

    with pytest.raises(RuntimeError, match="the loop broke"):
        supervise()

    assert children() == set()


def test_a_signal_ends_the_loop_and_handlers_are_restored(
    tmp_path: Path, children: Callable[[], set[int]]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Supervisor(tmp_path) as supervisor:
        supervisor.start("child", SLEEP, os.environ)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        supervisor.run()

    assert signal.getsignal(signal.SIGTERM) is before
    assert children() == set()


def test_children_are_stopped_in_the_reverse_order_of_their_start(
    tmp_path: Path, children: Callable[[], set[int]]
) -> None:
    script = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('end', sys.argv[1], flush=True), sys.exit())); print('here', flush=True); time.sleep(60)"
    with Supervisor(tmp_path) as supervisor:
        for name in "abc":
            supervisor.start(name, [sys.executable, "-c", script, name], os.environ)
        wait_until_started(tmp_path, count=3)

    ends = [
        line[-1] for line in (tmp_path / "rapidbridge.log").read_text().splitlines() if line.startswith("end")
    ]
    assert ends == ["c", "b", "a"]


def test_children_of_the_same_command_are_stopped_together(
    tmp_path: Path, children: Callable[[], set[int]]
) -> None:
    # A child exits only after both got SIGTERM: stopped one after the other, both would need SIGKILL.
    script = "import pathlib, signal, sys, time; terminated = []; signal.signal(signal.SIGTERM, lambda *_: terminated.append(1)); print('here', flush=True)\nwhile not terminated: time.sleep(0.01)\nprint('terminated', flush=True)\nwhile pathlib.Path('rapidbridge.log').read_text().count('terminated') < 2: time.sleep(0.01)"
    with capture_logs() as logs, Supervisor(tmp_path, grace_s=10) as supervisor:
        for name in ("worker-1", "worker-2"):
            supervisor.start(name, [sys.executable, "-c", script], os.environ)
        wait_until_started(tmp_path, count=2)

    assert logs == []
    assert children() == set()


def test_the_restart_delay_of_a_failing_child_grows(tmp_path: Path) -> None:
    with capture_logs() as logs, Supervisor(tmp_path) as supervisor:
        supervisor.start("failing", [sys.executable, "-S", "-c", "raise SystemExit(7)"], os.environ)

        def has_failed_twice() -> bool:
            supervisor.restart_exited()
            return len(logs) == 2

        wait_until(has_failed_twice)

    assert [(line["event"], line["name"], line["code"], line["restart_in_s"]) for line in logs] == [
        ("process.ended", "failing", 7, 0.5),
        ("process.ended", "failing", 7, 1.0),
    ]


# Runs in its own process, because the tests send it signals.
SUPERVISE = """
import os, sys, time
from pathlib import Path
from app.cli.local.supervisor import Supervisor

try:
    with Supervisor(Path(sys.argv[1]), grace_s=1) as supervisor:
        supervisor.start("child", sys.argv[3:], os.environ)
        if sys.argv[2] == "loop":
            supervisor.run()
        else:
            time.sleep(60)
finally:
    print("cleaned up", flush=True)
"""


def supervise(folder: Path, where: str, child: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SUPERVISE, str(folder), where, *child]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    wait_until_started(folder)
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_no_child_behind(tmp_path: Path, number: int) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: print('terminated', flush=True)); print('here', flush=True)\nwhile True: time.sleep(60)"
    with supervise(tmp_path, "loop", [sys.executable, "-c", script]) as process:
        family = find_descendants(process.pid)
        assert len(family) == 1

        process.send_signal(number)
        wait_until(lambda: "terminated" in (tmp_path / "rapidbridge.log").read_text())
        process.send_signal(number)

        assert process.wait(60) == 0
        assert not any(map(is_alive, family))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_before_the_loop_stops_children_and_cleans_up(
    tmp_path: Path, number: int, code: int
) -> None:
    with supervise(tmp_path, "start", SLEEP) as process:
        family = find_descendants(process.pid)
        assert len(family) == 1

        process.send_signal(number)

        assert process.communicate(timeout=60)[0] == "cleaned up\n"
        assert process.returncode == code
        assert not any(map(is_alive, family))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent was killed")
def test_killing_the_supervisor_ends_its_children(tmp_path: Path) -> None:
    with supervise(tmp_path, "loop", SLEEP) as process:
        family = find_descendants(process.pid)
        assert len(family) == 1

        process.kill()

        wait_until(lambda: not any(map(is_alive, family)), what=f"{family} to be gone")


def test_nothing_is_imported_from_the_working_directory_of_a_child(tmp_path: Path) -> None:
    (tmp_path / "signal.py").write_text("raise SystemExit('imported from the folder')")

    with Supervisor(tmp_path) as supervisor:
        supervisor.start("child", [sys.executable, "-P", *SLEEP[1:]], os.environ)
        wait_until_started(tmp_path)

    assert "imported" not in supervisor.read_output()
