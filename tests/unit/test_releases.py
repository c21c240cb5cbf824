"""The changelog, the list of releases and the version agree."""

import re
from itertools import pairwise

from app.config.version import VERSION
from tests.support.processes import ROOT
from tests.support.releases import Release, read_releases, run_git

HEADING = re.compile(r"^## (\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d|not released)\)$", re.MULTILINE)
COLUMNS = "| change | impact | action |"


def parse_version(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_changelog_has_every_release_and_this_version_newest_first() -> None:
    versions = [version for version, _ in HEADING.findall((ROOT / "CHANGELOG.md").read_text())]

    assert versions[0] == VERSION
    assert {release.version for release in read_releases()} <= set(versions)
    assert all(parse_version(newer) > parse_version(older) for newer, older in pairwise(versions))


def test_every_entry_but_the_first_release_names_change_impact_and_action() -> None:
    _, *entries = HEADING.split((ROOT / "CHANGELOG.md").read_text())
    bodies = dict(zip(entries[::3], entries[2::3], strict=True))
    del bodies["0.1.0"]

    for version, body in bodies.items():
        assert body.count(COLUMNS) == 1, version
        rows = [line for line in body.partition(COLUMNS)[2].splitlines()[2:] if line.startswith("|")]
        assert rows, version
        for row in rows:
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            assert [bool(cell) for cell in cells] == [True] * 3, row


def test_releases_are_older_than_this_version_and_in_order() -> None:
    versions = [parse_version(release.version) for release in read_releases()]

    assert versions == sorted(set(versions))
    assert versions[-1] < parse_version(VERSION)
    assert all(re.fullmatch("[0-9a-f]{40}", release.commit) for release in read_releases())


def test_the_tags_of_this_copy_are_the_commits_of_the_releases() -> None:
    listed = run_git("for-each-ref", "--format=%(refname:short) %(*objectname)%(objectname)", "refs/tags/v*")
    tagged = [
        Release(line.split()[0][1:], line.split()[1][:40]) for line in listed.stdout.decode().splitlines()
    ]

    known = read_releases()
    versions = {release.version for release in known}
    assert [release for release in tagged if release.version in versions and release not in known] == []
