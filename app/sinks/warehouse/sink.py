"""The warehouse sink: tables of versions, and views of the newest ones."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from uuid import UUID

from app.config.sinks import WarehouseSinkConfig
from app.errors import SinkRefused, SinkUnavailable
from app.sinks.warehouse.dlt_client import DltClient
from app.sinks.warehouse.load_writer import WarehouseLoad

_REQUEST_TIMEOUT_S = 60.0
_ERASURE_TIMEOUT_S = 600.0
_FOLDER_PREFIX = "rapidbridge-warehouse-"
# No request takes so long: the process that had the folder was killed.
_ABANDONED_AFTER_S = 3600.0


class WarehouseSink:
    """A table <name>_changes for each resource, to which loads append, and a view <name>.

    The view has the newest version of each record, without deleted ones. It is exact at any moment, also
    while a load is written again: rows that exist twice count once. A repeated load removes the rows of its
    earlier attempts. See LoadSink.
    """

    def __init__(self, config: WarehouseSinkConfig, client: DltClient | None = None) -> None:
        if find_spec("dlt") is None:
            message = "warehouses need a library; in the checkout, run: pip install -e '.[warehouse]'"
            raise SinkRefused("sink_set_up", message)
        self._config = config
        self._client = client or DltClient(config)

    def begin_load(self, load_id: UUID) -> WarehouseLoad:
        """Begin an attempt at a load; see LoadSink."""
        if (file := self._config.local_file) and not file.parent.is_dir():
            message = f"the folder {file.parent} is missing; create it, or correct `credentials` of the sink"
            raise SinkRefused("sink_set_up", message)
        _remove_abandoned_folders()
        return WarehouseLoad(self._client, self._config.destination, load_id, create_folder())

    def count(self, account: str) -> int:
        """Count the rows of an account in all versions; see AnySink."""
        return self._run("count", _REQUEST_TIMEOUT_S, account=account)

    def erase(self, account: str) -> int:
        """Delete the rows of an account from all tables; see AnySink."""
        _remove_abandoned_folders()
        return self._run("erase", _ERASURE_TIMEOUT_S, account=account)

    def ping(self) -> None:
        """Run one query; raises SinkUnavailable if that fails."""
        if self._config.local_file is None:
            self._run("check", _REQUEST_TIMEOUT_S)

    def close(self) -> None:
        """Do nothing: no connection stays open."""

    def _run(self, action: str, timeout_s: float, **fields: str) -> int:
        if (file := self._config.local_file) and not file.is_file():
            # A lost mount looks like a sink that was never written to.
            raise SinkUnavailable(f"the file {file} is missing: check `credentials` of the sink")
        with _open_folder() as folder:
            return self._client.run(action, folder, timeout_s=timeout_s, **fields)


def create_folder() -> Path:
    """Return a new empty folder that only this user can read."""
    return Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))


@contextmanager
def _open_folder() -> Iterator[Path]:
    folder = create_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned_folders() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
