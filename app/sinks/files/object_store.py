"""Files in an object store: S3, Google Cloud Storage, Azure Blob Storage."""

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from app.errors import SinkRefused, SinkUnavailable
from app.sinks.files.file_store import StagedFile, StoredFile
from app.sinks.files.names import format_account, has_records

# A job of a load has 30 s. A request that fails is repeated with the load.
# Only an endpoint that the operator writes with http:// is reached without TLS.
_CLIENT_OPTIONS: dict[str, Any] = {
    "connect_timeout": timedelta(seconds=3),
    "timeout": timedelta(seconds=10),
    "allow_http": True,
}
_RETRY_CONFIG: dict[str, Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=5)}
_MAX_PUTS = 8
_PART_BYTES = 8 * 1024 * 1024
_DELETE_BATCH = 500
_LIST_PAGE = 1000
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}
_STATUS = re.compile(r"\bstatus code: (\d{3})\b")


class ObjectStore:
    """A bucket and a prefix. A file is one PUT, or a completed multipart upload. See FileStore.

    url: s3://bucket/prefix, gs://bucket/prefix or az://container/prefix. Credentials, region and endpoint
    come from the standard variables of each cloud.
    """

    def __init__(self, url: str) -> None:
        self._place = url
        self._store = _open_store(url)

    def open_staging(self, load_id: UUID) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"rapidbridge-{load_id}-"))

    def publish(self, files: Sequence[StagedFile]) -> None:
        with ThreadPoolExecutor(_MAX_PUTS) as pool:
            # Read to its end: the first error is raised after all requests have ended.
            list(pool.map(self._put, files))

    def _put(self, file: StagedFile) -> None:
        import obstore  # noqa: PLC0415  # optional

        with self._translate_errors():
            obstore.put(self._store, file.name, file.path, chunk_size=_PART_BYTES, max_concurrency=2)

    def list_partitions(self, account: str | None) -> list[str]:
        resources = [name for name in self._list_folders("") if name.startswith("resource=")]
        if account is not None:
            return [f"{resource}/{format_account(account)}" for resource in resources]
        return [folder for resource in resources for folder in self._list_folders(f"{resource}/")]

    def _list_folders(self, prefix: str) -> list[str]:
        import obstore  # noqa: PLC0415  # optional

        with self._translate_errors():
            listed = obstore.list_with_delimiter(self._store, prefix)
        return sorted(folder.rstrip("/") for folder in listed["common_prefixes"])

    def list_files(self, folder: str) -> Iterator[StoredFile]:
        import obstore  # noqa: PLC0415  # optional

        with self._translate_errors():
            for page in obstore.list(self._store, folder, chunk_size=_LIST_PAGE):
                for entry in page:
                    if has_records(entry["path"]):
                        yield StoredFile(entry["path"], entry["size"], entry["last_modified"])

    def delete(self, names: Sequence[str]) -> None:
        for start in range(0, len(names), _DELETE_BATCH):
            batch = list(names[start : start + _DELETE_BATCH])
            try:
                self._call("delete", batch, raises=FileNotFoundError)
            except FileNotFoundError:
                # Some stores stop at an object that is missing.
                for name in batch:
                    with suppress(FileNotFoundError):
                        self._call("delete", name, raises=FileNotFoundError)

    def remove_leftovers(self, folder: str) -> None:
        """Do nothing: an upload that was not completed is no file."""

    def fetch(self, name: str, path: Path) -> None:
        with self._translate_errors(raises=FileNotFoundError), path.open("wb") as file:
            for part in self._call("get", name, raises=FileNotFoundError).stream(min_chunk_size=_PART_BYTES):
                file.write(part)

    def check(self) -> None:
        """List the prefix once; raises SinkUnavailable if that fails."""
        self._list_folders("")

    def _call(self, function: str, *arguments: Any, raises: type[Exception] | tuple[()] = ()) -> Any:
        import obstore  # noqa: PLC0415  # optional

        with self._translate_errors(raises=raises):
            return getattr(obstore, function)(self._store, *arguments)

    @contextmanager
    def _translate_errors(self, *, raises: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        from obstore import exceptions  # noqa: PLC0415  # optional

        try:
            yield
        except raises:
            raise
        except (exceptions.BaseError, OSError) as error:
            # Not its text, which may quote a signed URL.
            found = _STATUS.search(str(error))
            status = found[1] if found else _STATUSES.get(type(error).__name__, "")
            if advice := _ADVICE.get(status):
                raise SinkRefused("sink_set_up", f"{self._place}: {advice}") from error
            cause = f"status {status}" if status else type(error).__name__
            message = f"{self._place} does not answer as expected ({cause}); check its endpoint and network"
            raise SinkUnavailable(message) from error


_STATUSES = {"UnauthenticatedError": "401", "PermissionDeniedError": "403", "FileNotFoundError": "404"}
_ADVICE = {
    "401": "the credentials are rejected; correct them in the worker's environment",
    "403": "access denied; let the credentials list, read, write and delete objects there",
    "404": "the bucket does not exist; create it, or correct `url` of the sink",
}


def _open_store(url: str) -> Any:
    scheme, bucket, path = urlsplit(url)[:3]
    try:
        from obstore import exceptions, store  # noqa: PLC0415  # optional
    except ImportError as error:
        command = f"pip install -e '.[{_EXTRAS[scheme]}]'"
        message = f"{scheme}:// needs a library; in the checkout, run: {command}"
        raise SinkRefused("sink_set_up", message) from error
    stores: dict[str, Callable[..., Any]] = {
        "s3": partial(store.S3Store, bucket),
        "gs": partial(store.GCSStore, bucket),
        "az": partial(store.AzureStore, bucket),
    }
    prefix = unquote(path).strip("/") or None
    try:
        return stores[scheme](prefix=prefix, client_options=_CLIENT_OPTIONS, retry_config=_RETRY_CONFIG)
    except (exceptions.BaseError, ValueError) as error:
        message = f"{url}: a variable of its credentials or its endpoint is invalid ({type(error).__name__})"
        raise SinkRefused("sink_set_up", message) from error
