"""The python sink: the contract between the receiver and a function of the user."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from app.config.routes import Route
from app.config.sinks import PythonSinkConfig
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.sinks.base import WriteResult
from app.sinks.python import PythonSink, load_function
from app.truto.records import decode_json
from tests.support.documentation import ROOT
from tests.support.sent_records import SentRecords, send

ROUTE = Route(sinks=("main",))
HEAD = """
from app.errors import JobTimeout, SinkRefused, SinkUnavailable
from app.sinks.base import RejectedRecord, WriteResult
calls = []
"""
_numbers = count(1)

Make = Callable[..., PythonSink]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of its own, with nothing left of it in the process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    loaded = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - loaded:
        if name.startswith("user_"):
            del sys.modules[name]


def add_module(folder: Path, text: str) -> str:
    """Write a module of a new name; return the name."""
    name = f"user_{next(_numbers)}"
    (folder / f"{name}.py").write_text(HEAD + text)
    return name


@pytest.fixture
def make(folder: Path) -> Make:
    """Return a function that opens a sink with this body of `write(batch)`."""

    def open_sink(body: str, more: str = "", erase: str = "") -> PythonSink:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        module = add_module(folder, f"def write(batch):\n    calls.append(batch)\n{lines}\n{more}\n")
        target = f"{module}:write"
        return PythonSink(
            PythonSinkConfig(type="python", target=target, erase=f"{module}:{erase}" if erase else "")
        )

    return open_sink


def get_calls(sink: PythonSink) -> list[Any]:
    module = sys.modules[sink._config.target.partition(":")[0]]
    calls: list[Any] = module.calls
    return calls


def call(sink: PythonSink, sent: SentRecords | None = None) -> WriteResult:
    sent = sent or send([{"id": "1"}, {"id": "2"}, {"id": "3"}])
    return sink.write(sent.build_batch(ROUTE), ROUTE)


def test_a_function_gets_the_batch_with_exact_decimals(make: Make) -> None:
    sink = make("return None")
    sent = send(
        [decode_json('{"id": "1", "n": [0.10, 1E5, 100000000000000000.01, 7, null]}')], is_deletion=True
    )

    assert call(sink, sent) == WriteResult(1, [])

    [batch] = get_calls(sink)
    assert (batch.resource, batch.account, batch.run, batch.is_deletion) == ("crm/contacts", "a1", "r1", True)
    [record] = batch.records
    assert record.value["n"] == [Decimal("0.10"), Decimal("1E5"), Decimal("100000000000000000.01"), 7, None]
    assert [type(value) for value in record.value["n"]] == [Decimal, Decimal, Decimal, int, type(None)]
    assert record.json == '{"id":"1","n":[0.10,1E5,100000000000000000.01,7,null]}'
    assert (record.key, record.ordinal) == ("1", 0)


def test_newer_versions_have_a_greater_order(make: Make) -> None:
    sink = make("return None")

    for at_s, number in ((0, 1), (0, 2), (0.000001, 1), (1, 1), (100_000, 1)):
        call(sink, send([{"id": "1"}], at_s=at_s, number=number))

    orders = [batch.records[0].order for batch in get_calls(sink)]
    assert orders == sorted(set(orders))
    assert len({len(order) for order in orders}) == 1


def test_a_function_that_changes_records_changes_no_other_sinks(make: Make) -> None:
    sink = make("for record in batch.records: record.value['nested'].clear(); record.value.clear()")
    sent = send([{"id": "1", "nested": {"a": 1}}])

    for _ in range(2):
        call(sink, sent)

    assert sent.values == [{"id": "1", "nested": {"a": 1}}]


def test_a_function_is_not_called_for_an_empty_batch(make: Make) -> None:
    sink = make("return None")

    assert call(sink, send([])) == WriteResult(0, [])
    assert get_calls(sink) == []


def test_a_function_may_reject_single_records(make: Make) -> None:
    sink = make(
        "return [RejectedRecord(1, 'no_email', 'has no\\x1b e-mail' + 'x' * 999), RejectedRecord(2, 'not_this', ''), RejectedRecord(2, 'again', '')]"
    )

    result = call(sink)

    assert result.written == 1
    assert [(record.ordinal, record.reason) for record in result.rejected] == [(1, "no_email"), (2, "again")]
    assert result.rejected[0].message == f"has no e-mail{'x' * 287}"


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ("True", "returned a value of type bool; return None, or a list of RejectedRecord"),
        ("3", "returned a value of type int;"),
        ("{}", "returned a value of type dict;"),
        ("WriteResult(3)", "returned a value of type WriteResult;"),
        ("iter([])", "returned a value of type list_iterator;"),
        ("[batch.records[0]]", "other things than RejectedRecords of the batch"),
        ("[0]", "other things than RejectedRecords of the batch"),
        ("[RejectedRecord(3, 'code', '')]", "other things than RejectedRecords of the batch"),
        ("[RejectedRecord([], 'code', '')]", "other things than RejectedRecords of the batch"),
        ("[RejectedRecord(0, 'Ada is unknown', '')]", "without a code as its reason"),
        ("[RejectedRecord(0, None, '')]", "without a code as its reason"),
        (f"[RejectedRecord(0, '{'x' * 41}', '')]", "without a code as its reason"),
    ],
)
def test_a_result_of_another_form_is_no_success(make: Make, returned: str, problem: str) -> None:
    with pytest.raises(SinkRefused, match=problem) as refusal:
        call(make(f"return {returned}"))

    assert refusal.value.reason == "sink_set_up"
    assert "Ada" not in str(refusal.value)


@pytest.mark.parametrize(
    ("wait", "wait_s"),
    [
        ("60", 60),
        ("0.5", 0.5),
        ("1e9", 1800),
        *[(wait, None) for wait in ("None", "0", "-1", "float('nan')", "float('inf')", "'60'", "[]")],
    ],
)
def test_a_function_may_ask_for_a_retry(make: Make, wait: str, wait_s: float | None) -> None:
    sink = make(f"raise SinkUnavailable('the queue is\\x1b full' + 'x' * 999, retry_after_s={wait})")

    with pytest.raises(SinkUnavailable, match=r"^the queue is full") as failure:
        call(sink)

    assert failure.value.retry_after_s == wait_s
    assert len(str(failure.value)) == 300
    assert not isinstance(failure.value, SinkRefused)


def test_a_function_may_refuse_and_is_then_failing_as_a_set_up(make: Make) -> None:
    with pytest.raises(SinkRefused, match=r"^create the index$") as refusal:
        call(make("raise SinkRefused('any code', 'create the index')"))

    assert refusal.value.reason == "sink_set_up"


def test_the_end_of_the_job_passes_through(make: Make) -> None:
    with pytest.raises(JobTimeout):
        call(make("raise JobTimeout('ended')"))


def test_an_unknown_exception_is_a_retry_without_its_text(make: Make) -> None:
    sink = make("parse(batch.records[0].value)", more="def parse(value):\n    return int(value['name'])")

    with pytest.raises(SinkUnavailable) as failure:
        call(sink, send([{"id": "1", "name": "Ada"}]))

    assert not isinstance(failure.value, SinkRefused)
    pattern = r"user_\d+:write failed: ValueError at \S+/user_\d+\.py:10; correct the function"
    assert re.fullmatch(pattern, str(failure.value))


def test_the_place_of_an_exception_is_in_the_users_file(make: Make) -> None:
    with pytest.raises(SinkUnavailable, match=r"failed: JSONDecodeError at .*user_\d+\.py:7;"):
        call(make("import json; json.loads('{')"))


@pytest.mark.parametrize(
    ("text", "name", "problem"),
    [
        ("import nowhere_installed", "write", r"it imports nowhere_installed, which is not installed"),
        ("def write(:", "write", r"user_\d+\.py:6 is no valid Python; correct it"),
        ("raise RuntimeError('postgres://u:hidden@h')", "write", r"RuntimeError at .*user_\d+\.py:6; correct it"),
        ("import sys; sys.exit(3)", "write", r"user_\d+\.py:6 ends the process"),
        ("def wrote(batch): pass", "write", r"user_\d+\.py has no function write; did you mean wrote\?"),
        ("", "write", r"user_\d+\.py has no function write; correct its name in the routes file"),
        ("write = 3", "write", r"write in .*user_\d+\.py is no function, but of the type int; name a function"),
        ("class write: pass", "write", r"write in .* is no function, but of the type type"),
        ("async def write(batch): pass", "write", r"write in .* is an `async` function; write an ordinary one"),
        ("def write(): pass", "write", r"write in .* must take one argument; see docs/sinks.md"),
        ("def write(a, b): pass", "write", r"must take one argument"),
    ],
)  # fmt: skip
def test_a_function_that_cannot_be_loaded_is_named_with_its_file(
    folder: Path, text: str, name: str, problem: str
) -> None:
    module = add_module(folder, f"\n{text}\n")

    with pytest.raises(SinkRefused, match=problem) as refusal:
        load_function(f"{module}:{name}")

    assert refusal.value.reason == "sink_set_up"
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "missing"), [("user_missing:w", "user_missing"), ("user_missing.a.b:w", "user_missing")]
)
def test_a_missing_module_is_named_and_found_once_it_is_there(folder: Path, path: str, missing: str) -> None:
    with pytest.raises(SinkRefused, match=f"there is no module {missing}; install it, or start the workers"):
        load_function(path)

    if path == "user_missing:w":
        (folder / "user_missing.py").write_text("def w(batch): pass")
        assert callable(load_function(path))


@pytest.mark.parametrize(
    "text", ["def write(batch, more=1): pass", "write = lambda batch: None", "class C:\n def __call__(self, b): pass\nwrite = C()", "from builtins import print as write"]
)  # fmt: skip
def test_everything_that_can_be_called_with_a_batch_is_a_function(folder: Path, text: str) -> None:
    assert callable(load_function(f"{add_module(folder, text)}:write"))


def test_a_module_of_the_working_directory_hides_no_installed_one(folder: Path) -> None:
    (folder / "colorsys.py").write_text("def rgb_to_hls(batch): pass")
    sys.modules.pop("colorsys", None)

    with pytest.raises(SinkRefused, match="must take one argument"):
        load_function("colorsys:rgb_to_hls")


def test_an_erasure_calls_the_function_of_the_user(make: Make) -> None:
    sink = make(
        "pass", more="left = [2, 0, None]\ndef forget(account):\n    return left.pop(0)", erase="forget"
    )

    assert [sink.erase("a1") for _ in range(3)] == [2, 0, 0]
    with pytest.raises(SinkUnavailable, match=r"does not report its records; .*:forget erases them"):
        sink.count("a1")


@pytest.mark.parametrize("returned", ["-1", "True", "'2'", "1.0"])
def test_an_erasure_without_a_number_is_no_success(make: Make, returned: str) -> None:
    sink = make("pass", more=f"def forget(account):\n    return {returned}", erase="forget")

    with pytest.raises(SinkRefused, match="forget returned no number of erased records"):
        sink.erase("a1")


def test_a_sink_that_cannot_erase_says_so(make: Make) -> None:
    with pytest.raises(SinkUnavailable, match=r"nothing was erased by .*: name a function as `erase`"):
        make("pass").erase("a1")


def test_the_web_process_does_not_load_the_function(folder: Path) -> None:
    module = add_module(folder, "print('loaded')\ndef write(batch): pass")
    (folder / "routes.toml").write_text(
        f'[sinks.mine]\ntype = "python"\ntarget = "{module}:write"\n[[routes]]\nsinks = ["mine"]\n'
    )
    script = "import app.web.application; from app.config.load import read_config; read_config()"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )

    assert ran.stdout == ""
