"""The files for platforms: against the published schemas, the Procfile, the settings and the endpoints."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.checks.connections import count_max_connections
from app.config.load import Config
from app.config.machine import Machine
from app.config.routes import build_default_routes
from app.config.routes_file import read_routes
from app.config.settings import Settings, list_setting_names, read_settings
from tests.fuzz.targets import TARGETS
from tests.support.documentation import ROOT

UNITS = ("rapidbridge-web.service", "rapidbridge-worker.service")
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
# One of its processes is answered within 25 s of SIGTERM; see app/web/gunicorn_conf.py.
MIN_GRACE_S = 30
POSTGRES_URL = "postgresql://u:p@h/d"


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def read_manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "docs/deploy/kubernetes.yaml").read_text()))


def list_pods() -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in read_manifests() if each["kind"] == "Deployment"]


def list_containers() -> list[dict[str, Any]]:
    return [each for pod in list_pods() for each in (*pod.get("initContainers", ()), *pod["containers"])]


def list_own_services() -> dict[str, dict[str, Any]]:
    services = read_yaml("compose.yaml")["services"]
    return {name: service for name, service in services.items() if "build" in service}


def list_image_files() -> set[str]:
    """Return the paths that .dockerignore lets into an image."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def read_unit(name: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # keys of units have capitals
    unit.read_string((ROOT / "docs/deploy" / name).read_text())
    return unit


def read_dockerfile() -> list[tuple[str, str]]:
    """Return the instructions with their arguments, without comments and continued lines."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def find_instructions(name: str) -> list[str]:
    return [arguments for instruction, arguments in read_dockerfile() if instruction == name]


def read_render_services() -> dict[str, dict[str, Any]]:
    return {service["name"]: service for service in read_yaml("render.yaml")["services"]}


def list_commands() -> Iterator[tuple[str, str]]:
    """Yield every command that starts a process of ours, with its file."""
    for service in read_render_services().values():
        for key in ("preDeployCommand", "startCommand"):
            if key in service:
                yield "render.yaml", service[key].removeprefix("env -u GUNICORN_CMD_ARGS ")
    yield "Dockerfile", shlex.join(json.loads(find_instructions("CMD")[0]))
    for service in list_own_services().values():
        if "command" in service:
            yield "compose.yaml", shlex.join(service["command"])
    for container in list_containers():
        yield "kubernetes.yaml", shlex.join(container["command"])
    for name in UNITS:
        service_section = read_unit(name)["Service"]
        for key in ("ExecStartPre", "ExecStart"):
            if key in service_section:
                yield name, service_section[key].removeprefix("/opt/rapidbridge/.venv/bin/")


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("compose-spec", "compose.yaml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/feature.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_a_file_has_the_form_that_its_platform_publishes(schema: str, file: str) -> None:
    # The package ships copies of the published schemas.
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", file]

    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_manifests_have_the_form_that_kubernetes_publishes() -> None:
    program = Path(sys.executable).with_name("kubernetes-validate")

    ran = subprocess.run(
        [program, "--strict", "docs/deploy/kubernetes.yaml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    for name in UNITS:
        text = (ROOT / "docs/deploy" / name).read_text()
        # The programs are not installed there, and the check wants to see them.
        (tmp_path / name).write_text(re.sub(r"/opt/rapidbridge/.venv/bin/\w+(?= )", "/bin/true", text))

    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )

    faults = [line for line in ran.stderr.splitlines() if "rapidbridge" in line]
    assert (ran.returncode, faults) == (0, [])


def test_every_file_starts_the_processes_of_the_procfile() -> None:
    commands = list(list_commands())

    assert not [command for command in commands if command[1] not in PROCFILE.values()]
    for file in {file for file, _ in commands} - {"Dockerfile", *UNITS}:
        assert {command for name, command in commands if name == file} >= {
            command for process, command in PROCFILE.items() if process != "web"
        }


def test_every_variable_is_a_setting_and_valid() -> None:
    known = {*list_setting_names()}
    app = {name: each.get("value", "x" * 64) for name, each in read_json()["env"].items()}
    render = {
        service["name"]: {each["key"]: each.get("value", "x" * 64) for each in service.get("envVars", ())}
        for service in read_render_services().values()
    }
    compose = {
        name: {key: re.sub(r"\$\{[^}]*\}", "", value) for key, value in service["environment"].items()}
        for name, service in list_own_services().items()
    }
    kubernetes = [
        {each["name"]: each["value"] for each in container["env"]} for container in list_containers()
    ]

    for variables in (app, *render.values(), *compose.values(), *kubernetes):
        assert variables.keys() <= known
        servers = {"DATABASE_URL": POSTGRES_URL, "REDIS_URL": "redis://h", "ROUTES_FILE": __file__}
        read_settings(variables | servers)
    for name in ("rapidbridge", "rapidbridge-worker"):
        assert render[name].keys() >= {"DATABASE_URL", "REDIS_URL", "TRUTO_WEBHOOK_SECRET"}
    assert all(each["envFrom"] == [{"secretRef": {"name": "rapidbridge"}}] for each in list_containers())


def read_json() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "app.json").read_text())
    return content


def test_the_variables_of_the_documented_secrets_are_settings() -> None:
    page = (ROOT / "docs/deployment.md").read_text()
    named = set(re.findall(r"^([A-Z_]+)=", page, re.MULTILINE)) | set(
        re.findall(r"--from-literal=([A-Z_]+)=", page)
    )

    assert named >= {"TRUTO_WEBHOOK_SECRET", "DATABASE_URL", "REDIS_URL", "POSTGRES_PASSWORD"}
    assert named <= {*list_setting_names(), "POSTGRES_PASSWORD"}


def test_every_file_names_the_port_and_the_health_check_that_exist() -> None:
    port = Settings.model_fields["port"].default
    probes = [
        container[probe]["httpGet"]
        for container in list_containers()
        for probe in ("readinessProbe", "livenessProbe")
        if probe in container
    ]

    assert [probe["path"] for probe in probes] == ["/healthz", "/healthz"]
    assert read_render_services()["rapidbridge"]["healthCheckPath"] == "/healthz"
    assert "/healthz" in find_instructions("HEALTHCHECK")[0]
    assert [each["ports"][0]["containerPort"] for each in list_containers() if "ports" in each] == [port]
    assert find_instructions("EXPOSE") == [str(port)]
    # Only a proxy on this machine may reach the port without TLS.
    assert read_yaml("compose.yaml")["services"]["web"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_every_platform_waits_for_the_end_of_the_processes() -> None:
    services = read_render_services()
    for name in ("rapidbridge", "rapidbridge-worker"):
        assert services[name]["maxShutdownDelaySeconds"] >= MIN_GRACE_S
    for service in list_own_services().values():
        assert int(service["stop_grace_period"].removesuffix("s")) >= MIN_GRACE_S
    for name in UNITS:
        section = read_unit(name)["Service"]
        assert int(section["TimeoutStopSec"]) >= MIN_GRACE_S
        # SIGTERM to a child of the supervisor would end it before its job is done.
        assert section["KillMode"] == "mixed"
    for pod in list_pods():
        sleeps = [
            each["lifecycle"]["preStop"]["exec"]["command"]
            for each in pod["containers"]
            if "lifecycle" in each
        ]
        waited_s = sum(int(command[1]) for command in sleeps)
        assert pod["terminationGracePeriodSeconds"] >= MIN_GRACE_S + waited_s


def test_the_services_of_kubernetes_set_no_variable_that_is_a_setting() -> None:
    names = [each["metadata"]["name"] for each in read_manifests() if each["kind"] == "Service"]

    assert names
    assert not any(pod["enableServiceLinks"] for pod in list_pods())
    # If a cluster sets the variables all the same, none is taken for a setting.
    for name in (*names, "redis", "database"):
        prefix = name.upper().replace("-", "_")
        variables = {
            f"{prefix}_SERVICE_HOST": "10.0.0.1",
            f"{prefix}_SERVICE_PORT": "80",
            f"{prefix}_PORT": "tcp://10.0.0.1:80",
            f"{prefix}_PORT_80_TCP": "tcp://10.0.0.1:80",
        }
        assert not variables.keys() & {*list_setting_names()}
        assert read_settings(variables) == read_settings({})


def test_the_routes_of_the_kubernetes_manifest_are_valid_and_mounted() -> None:
    [routes] = [each["data"]["routes.toml"] for each in read_manifests() if each["kind"] == "ConfigMap"]

    read_routes(routes, source="kubernetes.yaml", variables={"DATABASE_URL": POSTGRES_URL})

    for container in list_containers():
        [file] = [each["value"] for each in container["env"] if each["name"] == "ROUTES_FILE"]
        # A file that is mounted with a subPath never changes.
        assert {"name": "routes", "mountPath": str(Path(file).parent), "readOnly": True} in container[
            "volumeMounts"
        ]


def test_containers_run_without_root_and_with_a_read_only_file_system() -> None:
    uid = int(find_instructions("USER")[0].partition(":")[0])

    assert len(find_instructions("FROM")) == 2
    assert uid > 1000
    for service in list_own_services().values():
        assert service["read_only"]
        assert "/tmp" in service["tmpfs"]
        assert service["cap_drop"] == ["ALL"]
    for pod in list_pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == uid
    for container in list_containers():
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_the_image_contains_the_code_and_nothing_else() -> None:
    copied = [words.split() for words in find_instructions("COPY") if not words.startswith("--from")]
    sources = {source for *words, _ in copied for source in words}

    assert sources == {"app", "workers", "requirements.txt"}
    # The image of the fuzzers needs more, and the receiver's image copies none of it.
    assert list_image_files() == sources | {".clusterfuzzlite", "tests/__init__.py", "tests/fuzz"}


def test_the_fuzzers_need_no_files_but_those_of_their_image(tmp_path: Path) -> None:
    for name in list_image_files():
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    build = tmp_path / ".clusterfuzzlite/build.sh"
    [command] = re.findall(r"python3 -c '(.+?)'", build.read_text())

    ran = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert ran.stdout.split() == list(TARGETS), ran.stderr
    assert subprocess.run(["bash", "-n", build], check=False).returncode == 0
    assert os.access(build, os.X_OK)


def test_all_files_use_one_version_of_python() -> None:
    version = (ROOT / ".python-version").read_text().strip()

    assert {words.split()[0] for words in find_instructions("FROM")} == {f"python:{version}-slim"}


def test_the_button_fits_the_limits_of_its_plans() -> None:
    app = read_json()
    variables = {name: each["value"] for name, each in app["env"].items() if "value" in each}
    settings = read_settings({**variables, "DATABASE_URL": POSTGRES_URL})
    dyno = Machine(8, 512 * 2**20)

    # https://devcenter.heroku.com/articles/app-json-schema
    assert 3 <= len(app["name"]) <= 30
    assert len(app["description"]) <= 140
    assert app["formation"].keys() <= PROCFILE.keys()
    assert all(each["quantity"] == 1 for each in app["formation"].values())
    # An Essential database allows 20 connections.
    assert {each["plan"] for each in app["addons"]} == {"heroku-postgresql:essential-0", "heroku-redis:mini"}
    assert count_max_connections(Config(settings, build_default_routes(POSTGRES_URL))) == 18
    assert settings.web_concurrency <= dyno.compute_web_concurrency()
    assert not settings.redis_tls_verify


def test_every_requirement_of_a_deployment_has_a_hash() -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.txt").read_text().strip())

    assert len(entries) > 30
    assert not [entry.partition("\n")[0] for entry in entries if "--hash=sha256:" not in entry]
    for command in (
        *find_instructions("RUN")[1:2],
        *(each["buildCommand"] for each in read_render_services().values() if "buildCommand" in each),
    ):
        assert "--require-hashes -r requirements.txt" in command


def test_the_workflow_runs_the_same_command_as_everyone() -> None:
    [job] = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    deployed = (ROOT / ".python-version").read_text().strip()

    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    versions = [
        image.removeprefix("python:").partition("-")[0] for image in job["strategy"]["matrix"]["image"]
    ]
    assert versions == [oldest, deployed]
    assert "bash .ci/run" in (ROOT / "CONTRIBUTING.md").read_text()


def test_a_bug_report_asks_for_the_output_of_doctor() -> None:
    fields = {each.get("id"): each for each in read_yaml(".github/ISSUE_TEMPLATE/bug.yml")["body"]}

    assert "`rapidbridge doctor --json`" in fields["doctor"]["attributes"]["label"]
    assert "`rapidbridge support-bundle`" in fields["doctor"]["attributes"]["description"]
    assert fields["doctor"]["validations"]["required"]
    assert fields["private"]["attributes"]["options"][0]["required"]
