"""The python sink: batches as calls of a function of the user."""

import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from app.config.routes import Route
from app.config.sinks import PythonSinkConfig
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.logs import locate_error
from app.sinks.base import REASON_PATTERN, Batch, Record, RejectedRecord, WriteResult

_MAX_RETRY_AFTER_S = 1800.0
_MAX_MESSAGE_CHARS = 300
_DECODER = json.JSONDecoder(parse_float=Decimal)


class PythonSink:
    """A function that writes batches: `target(batch: Batch) -> None | list[RejectedRecord]`.

    The function runs in a worker. When it returns, the records of the batch are durable, except for those
    that it returns as rejected; the latter become dead records. It may get a batch twice, late, out of order,
    and in two workers at once: it must be idempotent, and never replace a newer version of a record by an
    older one. The `order` of a newer version is greater. A batch has at least one record, and belongs to
    one account and resource. Each `value` is the function's own, with decimals as decimal.Decimal.

    The function raises SinkUnavailable(message, retry_after_s=60) for a retry, and SinkRefused(code, message)
    if a person has to correct something before; deliveries are held meanwhile. Any other exception is a
    retry. A job, of which a call is a part, may take 25 s: then JobTimeout is raised inside the function,
    which must not catch it. Messages must contain no record data, because they are stored and logged; of any
    other exception, only the type and the place are.

    `erase(account: str) -> int | None` removes the records of an integrated account, and returns the number
    of those that this call removed.
    """

    def __init__(self, config: PythonSinkConfig) -> None:
        """Load the functions; raises SinkRefused."""
        self._config = config
        self._write = load_function(config.target)
        self._erase = load_function(config.erase) if config.erase else None

    def write(self, batch: Batch, _route: Route) -> WriteResult:
        """Call the function with a batch; see Sink. It is not called with an empty one."""
        records, rejected = _copy_records(batch.records)
        if records:
            with_copies = replace(batch, records=records)
            result = self._call(self._config.target, self._write, with_copies)
            rejected += self._check_rejected(result, {record.ordinal for record in records})
        return WriteResult(len(batch.records) - len(rejected), rejected)

    def count(self, _account: str) -> int:
        """Raise SinkUnavailable: a function cannot count."""
        advice = f"{self._config.erase} erases them" if self._erase else "nor is there an `erase` function"
        raise SinkUnavailable(f"{self._config.target} does not report its records; {advice}")

    def erase(self, account: str) -> int:
        """Call the function for erasures; see Sink. Raises SinkUnavailable if there is none."""
        if self._erase is None:
            raise SinkUnavailable(
                f"nothing was erased by {self._config.target}: name a function as `erase` of the sink, or "
                "delete the account's records in its own system"
            )
        number = self._call(self._config.erase, self._erase, account)
        if number is None:
            return 0
        if type(number) is not int or number < 0:
            raise _refuse(f"{self._config.erase} returned no number of erased records; return 0 for none")
        return number

    def close(self) -> None:
        """Do nothing: the function closes its own connections."""

    def _call(self, path: str, function: Callable[..., object], argument: object) -> object:
        try:
            return function(argument)
        except JobTimeout:
            raise
        except SinkRefused as error:
            raise _refuse(_shorten(str(error))) from error
        except SinkUnavailable as error:
            raise SinkUnavailable(
                _shorten(str(error)),
                retry_after_s=_bound_wait_s(error.retry_after_s),
                is_batch_timeout=error.is_batch_timeout,
            ) from error
        except Exception as error:
            # Its message may quote a record.
            failure = f"{type(error).__name__} at {_locate(error, function)}"
            raise SinkUnavailable(f"{path} failed: {failure}; correct the function") from error

    def _check_rejected(self, result: object, ordinals: set[int]) -> Sequence[RejectedRecord]:
        if result is None:
            return ()
        target = self._config.target
        if not isinstance(result, list | tuple):
            kind = type(result).__name__
            raise _refuse(
                f"{target} returned a value of type {kind}; return None, or a list of RejectedRecord"
            )
        for record in result:
            if not (isinstance(record, RejectedRecord) and _is_in(record.ordinal, ordinals)):
                raise _refuse(
                    f"{target} returned a list with other things than RejectedRecords of the batch; "
                    "pass the `ordinal` of a record to each"
                )
            if not (isinstance(record.reason, str) and REASON_PATTERN.fullmatch(record.reason)):
                raise _refuse(
                    f"{target} rejected a record without a code as its reason; use lower-case letters, "
                    "digits and _, 40 at most"
                )
        by_ordinal = {record.ordinal: record for record in result}
        return [replace(record, message=_shorten(str(record.message))) for record in by_ordinal.values()]


def load_function(path: str) -> Callable[..., object]:
    """Import a function. path: "package.module:function". Raises SinkRefused with the file and the next step.

    Modules are searched for in the working directory, too, after all installed ones.
    """
    module_name, _, name = path.partition(":")
    with suppress(OSError):
        if (folder := str(Path.cwd())) not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except JobTimeout:
        raise
    except (Exception, SystemExit) as error:
        raise _refuse(f"{path} cannot be imported: {_describe_import_error(error, module_name)}") from error
    file = getattr(module, "__file__", None) or module_name
    function = getattr(module, name, None)
    if function is None:
        near = get_close_matches(name, vars(module), n=1)
        hint = f"did you mean {near[0]}?" if near else "correct its name in the routes file"
        raise _refuse(f"{file} has no function {name}; {hint}")
    problem = _find_problem(function)
    if problem:
        raise _refuse(f"{name} in {file} {problem}")
    checked: Callable[..., object] = function
    return checked


def _describe_import_error(error: BaseException, module_name: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        if f"{module_name}.".startswith(f"{error.name}."):
            return f"there is no module {error.name}; install it, or start the workers in its folder"
        return f"it imports {error.name}, which is not installed; install its package"
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno} is no valid Python; correct it"
    if isinstance(error, SystemExit):
        return f"{locate_error(error)} ends the process; remove this from the module"
    return f"{type(error).__name__} at {locate_error(error)}; correct it"


def _find_problem(function: Any) -> str:
    if not callable(function) or inspect.isclass(function):
        return f"is no function, but of the type {type(function).__name__}; name a function"
    if inspect.iscoroutinefunction(function):
        return "is an `async` function; write an ordinary one, which may call asyncio.run"
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return "must take one argument; see docs/sinks.md"
    except ValueError:
        # Functions in C may have no signature.
        return ""
    return ""


def _copy_records(records: Sequence[Record]) -> tuple[list[Record], list[RejectedRecord]]:
    """Return records with values of their own, since other sinks of the delivery share the original ones."""
    copies, rejected = [], []
    for record in records:
        try:
            copies.append(msgspec.structs.replace(record, value=_DECODER.decode(record.json)))
        except RecursionError:
            rejected.append(RejectedRecord(record.ordinal, "too_deep", "nested deeper than Python can read"))
    return copies, rejected


def _is_in(ordinal: object, ordinals: set[int]) -> bool:
    return type(ordinal) is int and ordinal in ordinals


def _bound_wait_s(wait_s: object) -> float | None:
    if isinstance(wait_s, int | float) and math.isfinite(wait_s) and wait_s > 0:
        return min(float(wait_s), _MAX_RETRY_AFTER_S)
    return None


def _locate(error: BaseException, function: Callable[..., object]) -> str:
    """Return the last line of the function's own file in a traceback, else that of any file."""
    file = getattr(inspect.unwrap(function), "__code__", None)
    lines = [line for name, line in _list_places(error) if file and name == file.co_filename]
    return f"{file.co_filename}:{lines[-1]}" if file and lines else locate_error(error)


def _list_places(error: BaseException) -> Iterator[tuple[str, int]]:
    trace = error.__traceback__
    while trace:
        yield trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next


def _shorten(message: str) -> str:
    return "".join(filter(str.isprintable, message))[:_MAX_MESSAGE_CHARS]


def _refuse(message: str) -> SinkRefused:
    return SinkRefused("sink_set_up", message)
