"""Commands, pages and sections that code, alert rules and files for platforms name."""

import re
from pathlib import Path

from app.cli.common.program import COMMANDS as TOP_COMMANDS
from tests.support.command_line import find_command, get_options
from tests.support.documentation import PAGES, ROOT
from tests.support.shown_programs import check_extras

FILES = [
    path
    for pattern in ("app/**/*.py", "app/**/*.html", "workers/**/*.py", "docs/*.yml", "docs/deploy/*")
    for path in ROOT.glob(pattern)
] + [path for pattern in (".github/**/*.yml", "*.yaml", "app.json") for path in ROOT.glob(pattern)]
_COMMAND = re.compile(rf"\brapidbridge ((?:{'|'.join(TOP_COMMANDS)})\b[^\"'`<\n]*)")


def read_text(path: Path) -> str:
    """Return the text of a file, with adjacent strings of Python joined."""
    return re.sub(r'"\s*\n\s*f?"', "", path.read_text())


def test_every_command_in_a_message_exists_with_its_options() -> None:
    wrong, number = [], 0
    for path in FILES:
        for text in _COMMAND.findall(read_text(path)):
            # A sentence may go on after the command.
            words = re.split(r"[.,;:)](?:\s|$)", text)[0].split()
            options = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
            name = find_command(words)
            is_group = name is None and len(words) == 1
            number += 1
            if not is_group and (name is None or not options <= get_options(name)):
                wrong.append(f"{path.relative_to(ROOT)}: rapidbridge {text}")
    assert number > 200
    assert not wrong


def test_every_page_and_section_that_the_code_names_exists() -> None:
    missing, number = [], 0
    for folder in ("app", "workers", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            text = re.sub(r"\s*\n\s*#?\s*", " ", path.read_text())
            for page, section in re.findall(r'(docs/\w+\.md)(?:, "([^"]+)")?', text):
                number += 1
                if page not in PAGES or (section and f"# {section}\n" not in PAGES[page]):
                    missing.append(f"{path.relative_to(ROOT)}: {page} {section}")
    assert number > 50
    assert not missing


def test_every_extra_that_a_message_or_a_page_names_exists() -> None:
    texts = {path.relative_to(ROOT).as_posix(): read_text(path) for path in FILES} | PAGES
    named = {
        extra
        for text in texts.values()
        for extras in re.findall(r"pip install (?:-\S+ |constraints\.txt )*'\.\[([a-z0-9,]+)\]'", text)
        for extra in extras.split(",")
    }

    assert {"kafka", "mcp", "mysql", "otel", "parquet", "warehouse"} <= named
    check_extras(sorted(named))
    # The project is in no registry: a stranger could publish a package of its name.
    assert not [name for name, text in texts.items() if re.search(r"pip install '?rapidbridge", text)]
