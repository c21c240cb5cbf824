"""`rapidbridge` commands, run to their end in processes that have the modules already.

Loading the modules takes a process half a second, and the tests run hundreds of commands.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

from app.cli.common.program import COMMANDS
from tests.support.processes import ROOT

_MAIN_FILE = ROOT / "app" / "cli" / "__main__.py"
# A process that loads the modules once and forks a process for each command.
_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload([module for module, _ in COMMANDS.values()])


def run_command(
    *words: str, cwd: Path, environment: Mapping[str, str], timeout_s: float = 60.0
) -> CompletedProcess[str]:
    """Run `python -m app.cli` with these words, without a terminal; return its exit code and output."""
    with tempfile.TemporaryDirectory(prefix="rb-") as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = _forking.Process(target=_run_main, args=(words, cwd, dict(environment), output, errors))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutExpired(words, timeout_s, output.read_bytes(), errors.read_bytes())
        code = process.exitcode
        process.close()
        return CompletedProcess(words, code, output.read_text(), errors.read_text())


def _run_main(
    words: tuple[str, ...], cwd: Path, environment: Mapping[str, str], output: Path, errors: Path
) -> None:
    """Become the command: its streams, folder, environment and arguments."""
    for descriptor, path in enumerate((Path(os.devnull), output, errors)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(descriptor, mode, encoding="utf-8", closefd=False)
        for descriptor, mode in enumerate(("r", "w", "w"))
    )
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(_MAIN_FILE), *words]
    sys.orig_argv = [sys.executable, "-m", "app.cli", *words]
    from app.cli import run  # noqa: PLC0415  # loaded in the process that forks

    run()
