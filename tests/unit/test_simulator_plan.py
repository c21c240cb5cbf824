"""An invalid plan is rejected with all its problems."""

import re
from typing import Any

import pytest

from app.errors import ConfigError
from app.simulator.plan import Plan
from app.simulator.variants import VARIANTS, parse_variants
from tests.support.documentation import read_section

URL = "http://127.0.0.1:8000/webhooks/truto"


def find_problems(**fields: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Plan(**{"url": URL, "secret": "s", "seed": "x", **fields})
    return [problem.partition(":")[0] for problem in caught.value.problems]


@pytest.mark.parametrize(
    "fields",
    [
        {"records": -1},
        {"batch_size": 0},
        {"accounts": 0},
        {"runs": 0},
        {"parallel": 0},
        {"duplicates": 1.1},
        {"reordering": -0.1},
        {"lost": 1.01},
        {"late": -1},
        {"changes": 2},
        {"stop_after": 1.5},
        {"record_errors": -1},
        {"forged": -1},
        {"first_backoff_s": -1.0},
        {"resources": ()},
        {"resources": (("", "list"),)},
        {"resources": (("crm/contacts", ""),)},
        {"url": ""},
        {"url": "localhost:8000"},
        {"url": "http://"},
        {"url": "http://[::1/"},
        {"url": "ftp://127.0.0.1/"},
    ],
    ids=str,
)
def test_an_invalid_field_is_reported(fields: dict[str, Any]) -> None:
    assert find_problems(**fields) == list(fields)


def test_all_problems_are_reported_together() -> None:
    assert find_problems(url="x", runs=0, changes=9) == ["url", "runs", "changes"]


def test_a_problem_never_quotes_the_url() -> None:
    with pytest.raises(ConfigError) as caught:
        Plan(url="ftp://user:hidden@host/", secret="s", seed="x")

    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(("total", "runs"), [(0, 3), (2, 3), (10, 3), (1000, 7)])
def test_the_shares_of_all_runs_add_up_to_the_total(total: int, runs: int) -> None:
    plan = Plan(URL, "s", "x", runs=runs)

    shares = [plan.compute_share(total, run) for run in range(runs)]

    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_an_unknown_variant_is_reported_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_variants(("ids=nowhere", "colour=blue", "records=list"))

    [value, name] = caught.value.problems
    assert "ids=payload|meta|nested|args|none" in value
    assert "event_name, event_id" in name


def test_pages_of_one_record_need_a_batch_size_of_one() -> None:
    assert find_problems(variants=parse_variants(("records=one",))) == ["variant"]


def test_every_variant_is_documented_with_its_values() -> None:
    rows = dict(
        re.findall(
            r"^\| `(\w+)` \| (`.*?`):", read_section("docs/operations.md", "Simulate Truto"), re.MULTILINE
        )
    )

    assert {name: tuple(re.findall(r"`(\w+)`", values)) for name, values in rows.items()} == VARIANTS
