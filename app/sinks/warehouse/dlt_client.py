"""Requests to dlt, each in a process of its own with a deadline."""

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from app.config.settings import build_child_environment
from app.config.sinks import WarehouseSinkConfig
from app.errors import SinkRefused, SinkTimeout, SinkUnavailable

_MODULE = "app.sinks.warehouse.dlt_process"
# dlt reads no files of the working directory and of the home, writes none there, and reports to nobody.
VARIABLES = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    "ENABLE_RUNTIME_TRACE": "false",
    "NORMALIZE__WORKERS": "1",
    "SCHEMA__NAMING": "sql_ci_v1",
    "RESTORE_FROM_DESTINATION": "true",
}


class DltClient:
    """Runs requests against one destination."""

    def __init__(self, config: WarehouseSinkConfig) -> None:
        self._config = config

    def run(self, action: str, folder: Path, *, timeout_s: float, **fields: Any) -> int:
        """Run a request; return the number in its answer.

        folder: an empty one for the files of dlt. Raises SinkUnavailable or SinkRefused.
        """
        config = self._config
        request = {
            "action": action,
            "folder": str(folder),
            "destination": config.destination,
            "dataset": config.dataset,
            "credentials": config.credentials,
        }
        self._run_process(json.dumps(request | fields), folder, timeout_s)
        return self._read_answer(folder)

    def _run_process(self, request: str, folder: Path, timeout_s: float) -> None:
        folders = {"DLT_PROJECT_DIR": str(folder), "DLT_DATA_DIR": str(folder)}
        # Platforms and terminals send the first two to all processes: the worker decides when its load ends,
        # and the child inherits that they are blocked. An alarm must leave no child that nobody ends.
        blocked = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        process: subprocess.Popen[bytes] | None = None
        try:
            process = subprocess.Popen(
                # -P: no file of the working directory is imported.
                [sys.executable, "-P", "-m", _MODULE],
                env=build_child_environment(VARIABLES | folders),
                stdin=subprocess.PIPE,
                # Messages of drivers quote records.
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            stdin = cast(IO[bytes], process.stdin)
            with suppress(BrokenPipeError):  # it died at once, without an answer
                # Left open: its end shows the process that this one has died.
                stdin.write(f"{request}\n".encode())
                stdin.flush()
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            message = f"did not answer within {timeout_s:.0f} s; check its state and the network"
            raise SinkTimeout(f"{self._config.destination} {message}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            if process is not None:
                process.kill()
                process.wait()
                with suppress(BrokenPipeError):
                    cast(IO[bytes], process.stdin).close()

    def _read_answer(self, folder: Path) -> int:
        try:
            answer = json.loads((folder / "answer.json").read_text())
        except (OSError, ValueError) as error:
            raise SinkUnavailable("the process of dlt died; check the memory of the machine") from error
        if message := answer.get("message"):
            message = message.replace("{destination}", self._config.destination)
            if answer.get("is_refused"):
                raise SinkRefused("sink_set_up", message)
            raise SinkUnavailable(message)
        return int(answer["number"])
