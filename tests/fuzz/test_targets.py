"""No input breaks a property of a parser: the corpus, structured inputs, and mutated ones."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.campaign import run_campaign
from tests.fuzz.corpus import FOLDER, list_files, read_corpus
from tests.fuzz.strategies import STRATEGIES
from tests.fuzz.targets import TARGETS

FILES = [path for name in TARGETS for path in list_files(name)]
MAX_CORPUS_BYTES = 1_000_000
MUTATED_INPUTS = 1500

# Of jmespath; only developers see it.
pytestmark = pytest.mark.filterwarnings("ignore:deprecated string literal syntax")


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_input_of_the_corpus_breaks_a_property(path: Path) -> None:
    TARGETS[path.parent.name].check(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_no_structured_input_breaks_a_property(name: str) -> None:
    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(STRATEGIES[name])
    def check(content: bytes) -> None:
        TARGETS[name].check(content)

    check()


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_no_mutated_input_breaks_a_property(name: str) -> None:
    result = run_campaign(
        name,
        TARGETS[name],
        read_corpus(name),
        max_inputs=MUTATED_INPUTS,
        max_duration_s=float("inf"),
        seed="ci",
    )

    assert [failure.description for failure in result.failures] == []
    assert result.inputs == MUTATED_INPUTS


def test_every_target_has_a_corpus_and_a_strategy() -> None:
    assert {folder.name for folder in FOLDER.iterdir()} == set(TARGETS) == set(STRATEGIES)
    assert sum(path.stat().st_size for path in FILES) < MAX_CORPUS_BYTES
