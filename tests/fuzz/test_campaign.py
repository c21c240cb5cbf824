"""A campaign finds planted faults, and repeats what it finds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import CampaignResult, run_campaign, save_failure
from tests.fuzz.targets import Target
from tests.support.processes import ROOT

CORPUS = [b'{"a": [1, 2, {"b": "text"}]}']


def run(target: Target, *, seed: str = "1", max_inputs: int = 20_000) -> CampaignResult:
    return run_campaign("planted", target, CORPUS, max_inputs=max_inputs, max_duration_s=600, seed=seed)


def test_a_planted_fault_is_found_and_saved(tmp_path: Path) -> None:
    def check(content: bytes) -> None:
        assert b"}}" not in content, "two brackets"

    result = run(Target(check))

    [failure] = result.failures
    assert "two brackets" in failure.description
    assert b"}}" in save_failure(tmp_path / "new", "planted", failure).read_bytes()


def test_a_fault_behind_a_token_is_found() -> None:
    def check(content: bytes) -> None:
        assert b"[NaN]" not in content

    assert run(Target(check, (b"NaN", b"["))).failures


def test_a_fault_in_a_value_of_json_is_found() -> None:
    def check(content: bytes) -> None:
        assert b'"b": {"records": "text"}' not in content

    assert run(Target(check, is_json=True)).failures


def test_an_input_without_an_end_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(content: bytes) -> None:
        while True:
            pass

    monkeypatch.setattr(campaign, "MAX_INPUT_CPU_S", 0.05)
    [failure] = run(Target(check), max_inputs=3).failures

    assert "InputTimeout" in failure.place


def test_the_same_seed_gives_the_same_inputs() -> None:
    inputs: dict[str, list[bytes]] = {"first": [], "second": [], "other": []}
    for name, seed in (("first", "1"), ("second", "1"), ("other", "2")):
        run(Target(inputs[name].append, is_json=True), seed=seed, max_inputs=500)

    assert inputs["first"] == inputs["second"] != inputs["other"]
    assert len(set(inputs["first"])) > 300


def test_the_command_repeats_an_input(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"{}")

    def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.fuzz", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)

    repeated = fuzz("envelope", "--file", str(tmp_path / "input"))
    unknown = fuzz("envelop")

    assert (repeated.returncode, "no property of envelope is broken" in repeated.stdout) == (0, True)
    assert (unknown.returncode, "known: signature_header, " in unknown.stderr) == (2, True)
