"""The packages of a deployment with any extras, and their licences: `python -m tests.support.licences`."""

import importlib.metadata
import tomllib
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.documentation import ROOT

# Not part of a deployment.
_OTHER_EXTRAS = ("bench", "test")
# Texts of the metadata, by the identifier of SPDX that they mean.
_IDENTIFIERS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def list_run_time_packages() -> dict[str, str]:
    """Return the licence of each installed package that a deployment may have, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name in extras if name not in _OTHER_EXTRAS for line in extras[name]),
    ]
    waiting = [Requirement(line) for line in lines]
    seen: dict[str, set[str]] = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = {"", *requirement.extras}
        if wanted <= seen.get(name, set()):
            continue
        seen.setdefault(name, set()).update(wanted)
        waiting += _list_requirements(name, wanted)
    return {name: licence for name in sorted(seen) if (licence := _read_licence(name)) is not None}


def _list_requirements(name: str, extras: set[str]) -> Iterator[Requirement]:
    try:
        lines = importlib.metadata.requires(name) or ()
    except importlib.metadata.PackageNotFoundError:
        # Of another version of Python, or another system.
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in extras
        ):
            yield requirement


def _read_licence(name: str) -> str | None:
    """Return the licence that a package states, as an expression of SPDX; None if it is not installed."""
    try:
        metadata = importlib.metadata.metadata(name).json
    except importlib.metadata.PackageNotFoundError:
        return None
    if expression := metadata.get("license_expression"):
        return str(expression)
    classifiers = [
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get("classifier", ())
        if classifier.startswith("License :: OSI Approved :: ")
    ]
    # The whole text of a licence may stand in this field.
    stated = str(metadata.get("license", "")).partition("\n")[0].strip()
    if stated and len(stated) < 30 and not classifiers:
        classifiers = [stated]
    return " OR ".join(sorted({_IDENTIFIERS.get(text, text) for text in classifiers})) or "unknown"


def render_table() -> str:
    """Return the rows of docs/licences.md."""
    return "\n".join(f"| `{name}` | {licence} |" for name, licence in list_run_time_packages().items())


if __name__ == "__main__":
    print(render_table())  # noqa: T201  # a program
