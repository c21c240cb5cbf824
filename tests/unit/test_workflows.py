"""The workflows of the forge: valid, with few rights, and with actions that nobody can change."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.support.documentation import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# The rights beyond reading, by workflow and job: all others have none.
WRITING = {
    ("release.yml", "attest"): {"id-token", "attestations"},
    ("release.yml", "publish"): {"id-token"},
    ("release.yml", "image"): {"packages", "id-token", "attestations"},
}


def read(name: str) -> dict[Any, Any]:
    workflow = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
    assert isinstance(workflow, dict)
    return workflow


def list_jobs() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path.name, name, job) for path in WORKFLOWS for name, job in read(path.name)["jobs"].items()]


def test_the_workflows_follow_the_published_schema() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_starts_with_the_right_to_read_at_most(path: Any) -> None:
    workflow = read(path.name)

    assert set(workflow["permissions"].items()) <= {("contents", "read")}
    # YAML reads the key `on` as true. This event runs foreign code with the rights of the repository.
    assert "pull_request_target" not in workflow[True]
    assert "workflow_run" not in workflow[True]


def test_only_the_jobs_of_a_release_may_write() -> None:
    writing = {
        (file, name): rights
        for file, name, job in list_jobs()
        if (rights := {right for right, level in (job.get("permissions") or {}).items() if level == "write"})
    }

    assert writing == WRITING
    # A job that may write runs no code of the dependencies but actions.
    for file, name, job in list_jobs():
        if (file, name) in writing:
            assert not [step for step in job["steps"] if "run" in step]


def test_every_job_ends_and_every_action_is_pinned_by_its_commit() -> None:
    for path in WORKFLOWS:
        used = re.findall(r"uses: (\S+)(.*)", path.read_text())
        for action, comment in used:
            if not action.startswith("./"):
                assert re.fullmatch(r"[\w/.-]+@[0-9a-f]{40}", action), f"{path.name}: {action}"
                # ClusterFuzzLite has no other version than v1.
                assert re.fullmatch(r" # v\d+(\.\d+\.\d+)?", comment), f"{path.name}: {action} has no version"
    assert all("timeout-minutes" in job for _, _, job in list_jobs() if "uses" not in job)


def test_no_step_keeps_credentials_or_puts_foreign_text_into_a_script() -> None:
    for file, name, job in list_jobs():
        for step in job.get("steps", ()):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, f"{file}: {name}"
            assert "${{" not in step.get("run", ""), f"{file}: {name}"


def test_a_release_is_tested_built_attested_and_then_published() -> None:
    jobs = read("release.yml")["jobs"]

    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "tests": None,
        "build": "tests",
        "attest": "build",
        "publish": "attest",
        "image": "attest",
    }
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert "--require-hashes -r .ci/tools.txt" in text
    assert "bash .ci/sbom sbom.cdx.json" in text
    assert "secrets." not in text.replace("secrets.GITHUB_TOKEN", "")


@pytest.mark.parametrize("pins", ["requirements.txt", ".ci/tools.txt"])
def test_every_pinned_package_has_hashes(pins: str) -> None:
    packages = (ROOT / pins).read_text().replace("\\\n", " ").splitlines()

    assert len(packages) > 30
    for package in packages:
        assert re.match(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", package), package


@pytest.mark.parametrize("file", ["Dockerfile", ".ci/sbom", ".ci/audit", ".github/workflows/release.yml"])
def test_packages_are_installed_with_their_hashes(file: str) -> None:
    installs = re.findall(r"\binstall [^\n]*-r \S+", (ROOT / file).read_text())

    assert installs
    assert all("--require-hashes" in install for install in installs)
