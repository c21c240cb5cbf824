"""The releases of this project, and their source."""

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import ROOT

# One line for each release, oldest first: version and commit.
RELEASES_FILE = ROOT / ".ci/releases"

_MIGRATIONS = "app/store/migrations/versions"


@dataclass(frozen=True, slots=True)
class Release:
    """A release. commit: its full id."""

    version: str
    commit: str


def read_releases() -> list[Release]:
    """Return all releases, oldest first."""
    lines = [line for line in RELEASES_FILE.read_text().splitlines() if not line.startswith("#")]
    return [Release(*line.split()) for line in lines]


def get_previous_release() -> Release:
    """Return the newest release; skips the test without the history of the repository."""
    release = read_releases()[-1]
    if run_git("cat-file", "-e", f"{release.commit}^{{commit}}").returncode:
        pytest.skip(f"this copy of the repository has no history down to release {release.version}")
    return release


def extract(release: Release, folder: Path) -> Path:
    """Write the packages of a release to a folder, and return it."""
    archive = run_git("archive", release.commit, "app", "workers")
    archive.check_returncode()
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as content:
        content.extractall(folder, filter="data")
    return folder


def find_newest_revision(release: Release) -> str:
    """Return the revision of the tables of a release."""
    listed = run_git("ls-tree", "--name-only", release.commit, f"{_MIGRATIONS}/")
    listed.check_returncode()
    names = [path.rpartition("/")[2] for path in listed.stdout.decode().split()]
    return max(name.partition("_")[0] for name in names if name[0].isdigit())


def run_git(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in this repository."""
    # The checkout may belong to another user.
    return subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", *words], cwd=ROOT, capture_output=True, check=False
    )
