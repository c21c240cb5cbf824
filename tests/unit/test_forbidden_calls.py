"""Calls that could run foreign code, skip a verification or build a statement: only in their places.

ruff's rules of the group S reject most of them too, but a `noqa` silences those.
"""

import ast
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
    for package in ("app", "workers")
    for path in sorted((ROOT / package).rglob("*.py"))
}
_LOADERS = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "jsonpickle",
    "yaml",
    "xml",
    "ctypes",
    "pty",
}
_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp"),
    *("ssl._create_unverified_context", "hashlib.md5", "hashlib.sha1", "random.getrandbits"),
}
_KEYWORDS = {
    "shell": True,
    "verify": False,
    "autoescape": False,
    "validate_certs": False,
    "check_hostname": False,
}
# Of redis-py, librdkafka, obstore and PyMySQL.
_VERIFICATION_OPTIONS = {
    *("ssl_cert_reqs", "enable.ssl.certificate.verification", "ssl.endpoint.identification.algorithm"),
    *("allow_invalid_certificates", "ssl_verify_cert", "ssl_verify_identity"),
}
_STATEMENTS = {"execute", "exec_driver_sql", "text"}


def is_code_loader(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] in _LOADERS for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _LOADERS


def is_forbidden_call(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in _CALLS


def is_forbidden_keyword(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.keyword)
        and isinstance(node.value, ast.Constant)
        and node.arg in _KEYWORDS
        and node.value.value is _KEYWORDS[node.arg]
    )


def is_unverified_tls(node: ast.AST) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "CERT_NONE") or (
        isinstance(node, ast.Constant) and node.value in _VERIFICATION_OPTIONS
    )


def is_built_statement(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not node.args:
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in _STATEMENTS and isinstance(node.args[0], ast.JoinedStr | ast.BinOp)


# Each kind: its detection, the modules that may, and a line that must be found.
KINDS: dict[str, tuple[Callable[[ast.AST], bool], tuple[str, ...], str]] = {
    "a library that loads code": (is_code_loader, (), "from pickle import loads"),
    "a call that runs text, or is weak": (is_forbidden_call, (), "eval('1')"),
    "a keyword that skips a protection": (is_forbidden_keyword, (), "get(url, verify=False)"),
    # Behind ssl_mode=REQUIRED and REDIS_TLS_VERIFY=0; the modules of the configuration read parameters of URLs.
    "TLS without verification": (
        is_unverified_tls,
        (
            "app.database.mysql_sessions",
            "app.redis.connection",
            "app.config.database_url",
            "app.config.redis_url",
            "app.config.server_verification",
        ),
        "context.verify_mode = ssl.CERT_NONE",
    ),
    # Names are quoted, and values are parameters: tests/contract/test_hostile_names.py.
    "a built statement": (
        is_built_statement,
        ("app.sinks.sql", "app.database", "app.store.migrate", "app.store.migrations"),
        "connection.execute(f'SELECT {x}')",
    ),
}


def find(is_found: Callable[[ast.AST], bool], source: str) -> Iterator[int]:
    yield from (getattr(node, "lineno", 0) for node in ast.walk(ast.parse(source)) if is_found(node))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dangerous_call_is_only_in_its_place(kind: str) -> None:
    is_found, allowed, example = KINDS[kind]

    found = {module: lines for module, source in MODULES.items() if (lines := list(find(is_found, source)))}

    assert list(find(is_found, example)) == [1]
    elsewhere = {
        module: lines
        for module, lines in found.items()
        if not any(module == place or module.startswith(f"{place}.") for place in allowed)
    }
    assert not elsewhere
    unused = [
        place
        for place in allowed
        if not any(module == place or module.startswith(f"{place}.") for module in found)
    ]
    assert not unused


def test_no_template_shows_a_value_without_escapes() -> None:
    templates = list((ROOT / "app").rglob("*.html"))

    assert len(templates) > 20
    for path in templates:
        text = path.read_text()
        assert "autoescape" not in text, path
        assert "| safe" not in text, path
        assert "|safe" not in text, path


def test_the_linter_checks_security_in_all_code_of_the_service() -> None:
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]

    assert "S" in lint["select"]
    # S603 flags every subprocess; none uses a shell.
    assert [rule for rule in lint["ignore"] if rule.startswith("S")] == ["S603"]
    exceptions = {
        path: rules
        for path, names in lint["per-file-ignores"].items()
        if (rules := [name for name in names if name.startswith("S")]) and path.startswith(("app", "workers"))
    }
    assert exceptions == {
        "app/sink_contract/suite.py": ["S101"],
        "app/sinks/warehouse/statements.py": ["S608"],
    }
