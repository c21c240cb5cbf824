"""docs/licences.md against the installed packages: no unknown licence, and no copyleft without a reason."""

import re
import tomllib

from tests.support.documentation import PAGES, ROOT, read_section
from tests.support.licences import list_run_time_packages

PAGE = "docs/licences.md"
ALLOWED = {"MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-2.0", "ZPL-2.1", "AFL-2.1"}


def read_rows(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|$", text, re.MULTILINE))


def test_the_page_lists_every_package_of_a_deployment_with_its_licence() -> None:
    listed, installed = read_rows(read_section(PAGE, "Packages")), list_run_time_packages()

    # Those of another version of Python are not installed.
    assert {name: listed.get(name) for name in installed} == installed
    pinned = re.findall(r"^([a-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert set(listed) <= set(pinned)
    assert "unknown" not in listed.values()


def test_every_package_of_the_smallest_deployment_is_listed() -> None:
    required = re.findall(
        r"^([a-z0-9-]+)==[^;\n]*?\\?$", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    )

    assert len(required) > 30
    assert set(required) <= set(read_rows(PAGES[PAGE]))


def test_every_licence_is_allowed_or_has_a_reason() -> None:
    reasons = re.findall(
        r"^\| ([A-Za-z0-9.-]+) \| (`[^|]+`) \| [a-z][^|]{20,} \|$", PAGES[PAGE], re.MULTILINE
    )
    excepted = {licence: set(re.findall(r"`([a-z-]+)`", names)) for licence, names in reasons}

    assert set(excepted) == {"LGPL-3.0-only", "MPL-2.0"}
    for name, expression in read_rows(read_section(PAGE, "Packages")).items():
        # One side of an OR suffices; all sides of an AND apply.
        for part in expression.replace("(", "").replace(")", "").split(" AND "):
            choices = part.split(" OR ")
            is_excepted = any(name in excepted.get(choice, ()) for choice in choices)
            assert is_excepted or any(choice in ALLOWED for choice in choices), f"{name}: {expression}"


def test_the_page_names_the_allowed_licences() -> None:
    [sentence] = re.findall(r"^Allowed are (.*?)\. Two", PAGES[PAGE], re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert set(re.split(r", | and ", sentence)) == ALLOWED
    assert project["license"] in ALLOWED
