"""The programs in the shell lines of documentation, each with a check of its words.

A check raises AssertionError or click.UsageError. It runs nothing but `--help`.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import yaml

from app.config.settings import list_setting_names
from tests.chaos.__main__ import build_parser as build_chaos_parser
from tests.fuzz.__main__ import build_parser as build_fuzz_parser
from tests.support.command_line import parse_command
from tests.support.documentation import ROOT

# The folder of a checkout in the examples of servers.
_INSTALLED = "/opt/rapidbridge/"
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_VENV = Path(sys.executable).parent

Words = Sequence[str]


def check_words(words: Words) -> None:
    """Check one command: a known program, options that it has, files that exist."""
    if not words or list(words) == [".", ".venv/bin/activate"]:
        return
    program = Path(words[0].removeprefix(_INSTALLED)).name
    assert program in PROGRAMS, (
        f"{program}: no check for this program; add one to PROGRAMS in tests/support/shown_programs.py"
    )
    for word in words[1:]:
        path = word.removeprefix(_INSTALLED)
        if path != word or re.match(r"(app|docs|tests|workers|\.ci)/|(constraints|requirements)\.", path):
            assert list(ROOT.glob(path)) or path == ".venv", f"{word}: no such file in the repository"
    PROGRAMS[program](words[1:])


def check_options(*command: str) -> Callable[[Words], None]:
    """Return a check of the options against the help of a program, if it is installed."""

    def check(words: Words) -> None:
        options = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
        if options and (text := _read_help(command)):
            for option in options:
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", text), f"{command[0]} has no {option}"

    return check


@cache
def _read_help(command: tuple[str, ...]) -> str:
    program = shutil.which(command[0], path=str(_VENV)) or shutil.which(command[0])
    if not program:
        return ""
    ran = subprocess.run(
        [program, *command[1:], "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    return ran.stdout + ran.stderr


_PARSERS = {"tests.chaos": build_chaos_parser, "tests.fuzz": build_fuzz_parser}


def _check_python(words: Words) -> None:
    assert words[0] == "-m", words
    module, rest = words[1], words[2:]
    if module == "app.cli":
        parse_command(rest)
    elif module in _PARSERS:
        try:
            _PARSERS[module]().parse_args(rest)
        except SystemExit as error:
            raise AssertionError(f"{' '.join(rest)}: not the options of {module}") from error
    else:
        check_options("python", "-m", module)(rest)


def _check_pip(words: Words) -> None:
    assert words[0] == "install", words
    check_options("pip", "install")(words)
    for word in words[1:]:
        if match := re.fullmatch(r"(.+)\[([\w,]+)\]", word):
            assert match[1] == ".", f"{word}: not from the checkout; the project is in no registry"
            check_extras(match[2].split(","))


def check_extras(names: Sequence[str]) -> None:
    """Check that the project has these extras."""
    unknown = set(names) - set(_PROJECT["optional-dependencies"])
    assert not unknown, f"pyproject.toml has no extra {', '.join(sorted(unknown))}"


def _check_uv(words: Words) -> None:
    assert list(words[:2]) == ["pip", "compile"], words
    check_extras([words[place + 1] for place, word in enumerate(words) if word == "--extra"])
    lock = (ROOT / ".ci/lock").read_text()
    for option in {word for word in words if word.startswith("--")} - {"--extra"}:
        assert option in lock, f".ci/lock does without {option}"


def check_settings(names: Sequence[str]) -> None:
    """Check that these are settings."""
    unknown = set(names) - set(list_setting_names())
    assert not unknown, f"no settings: {', '.join(sorted(unknown))}"


def _check_heroku(words: Words) -> None:
    app = json.loads((ROOT / "app.json").read_text())
    subcommand, *rest = words
    if subcommand == "run":
        check_words(rest)
    elif subcommand == "config:set":
        check_settings([word.partition("=")[0] for word in rest])
    elif subcommand == "addons:create":
        assert {"plan": rest[0]} in app["addons"], f"app.json has no {rest[0]}"
    elif subcommand == "ps:scale":
        assert {word.partition("=")[0] for word in rest} == set(app["formation"])
    elif subcommand == "create":
        assert {"url": rest[-1]} in app["buildpacks"]
    else:
        raise AssertionError(f"heroku {subcommand}: add a check to tests/support/shown_programs.py")


def _check_docker(words: Words) -> None:
    assert words[0] == "compose", words
    subcommand, *rest = words[1:]
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    if subcommand == "exec":
        assert rest[0] in services, f"compose.yaml has no service {rest[0]}"
        check_words(rest[1:])
    else:
        # Docker is not installed where the tests run.
        assert subcommand == "up", subcommand


def _check_kubectl(words: Words) -> None:
    manifests = list(yaml.safe_load_all((ROOT / "docs/deploy/kubernetes.yaml").read_text()))
    names = {f"deploy/{each['metadata']['name']}" for each in manifests if each["kind"] == "Deployment"}
    if words[0] == "exec":
        assert words[1] in names, f"kubernetes.yaml has no {words[1]}"
        check_words(words[words.index("--") + 1 :])
    elif list(words[:3]) == ["create", "secret", "generic"]:
        assert f'"secretRef": {{"name": "{words[3]}"}}' in json.dumps(manifests)
        check_settings([word.split("=")[1] for word in words[4:]])
    else:
        assert list(words[:2]) == ["apply", "-f"], words


def _check_systemctl(words: Words) -> None:
    units = [word for word in words[1:] if not word.startswith("-")]
    missing = [name for name in units if not (ROOT / f"docs/deploy/{name}.service").exists()]
    assert not missing, f"docs/deploy has no unit {', '.join(missing)}"


def _check_systemd_run(words: Words) -> None:
    count = next(place for place, word in enumerate(words) if not word.startswith("-"))
    check_options("systemd-run")(words[:count])
    check_words(words[count:])


def _check_ruff(words: Words) -> None:
    assert f"\n  {words[0]} " in _read_help(("ruff",)), f"ruff has no command {words[0]}"
    check_options("ruff", words[0])(words[1:])


def _accept(_words: Words) -> None:
    """Programs whose words are only files, names or addresses, checked elsewhere."""


PROGRAMS: dict[str, Callable[[Words], None]] = {
    "rapidbridge": lambda words: parse_command(words) if words else None,
    "python": _check_python,
    "python3": _check_python,
    "pip": _check_pip,
    "uv": _check_uv,
    "heroku": _check_heroku,
    "docker": _check_docker,
    "kubectl": _check_kubectl,
    "systemctl": _check_systemctl,
    "systemd-run": _check_systemd_run,
    "ruff": _check_ruff,
    "mypy": check_options("mypy"),
    "gunicorn": check_options("gunicorn"),
    "honcho": check_options("honcho"),
    "useradd": check_options("useradd"),
    "install": check_options("install"),
    "bash": _accept,
    "cat": _accept,
    "cp": _accept,
    "eval": _accept,
    "export": _accept,
    "git": _accept,
    "openssl": _accept,
    "redis-cli": _accept,
    "sqlite3": _accept,
}
