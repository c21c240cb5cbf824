"""Reads the README and the pages of docs/ for tests."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
# A fence may be indented, in a list.
_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block of a page, without its indentation."""

    page: str
    language: str
    text: str


def read_marked_block(page: str, mark: str) -> str:
    """Return the code block that follows the first `<!-- mark -->`."""
    return read_marked_blocks(page, mark)[0]


def read_marked_blocks(page: str, mark: str) -> list[str]:
    """Return the code blocks that follow each `<!-- mark -->`."""
    return [
        after.partition("```")[2].partition("\n")[2].partition("```")[0]
        for after in PAGES[page].split(f"<!-- {mark} -->")[1:]
    ]


def read_section(page: str, title: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    after = PAGES[page].partition(f"# {title}\n")[2]
    assert after, f"{page} has no heading {title}"
    return re.split(r"^##+ ", after, flags=re.MULTILINE)[0]


def read_marked_table(page: str, mark: str) -> dict[str, str]:
    """Return the first and the last column of the table that follows `<!-- mark -->`, without backticks."""
    table = PAGES[page].partition(f"<!-- {mark} -->\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", table, re.MULTILINE))


def list_code_blocks(*languages: str) -> list[CodeBlock]:
    """Return the fenced blocks of all pages in these languages."""
    return [
        CodeBlock(page, match[2], re.sub(f"^{match[1]}", "", match[3], flags=re.MULTILINE))
        for page, text in PAGES.items()
        for match in _FENCE.finditer(text)
        if match[2] in languages
    ]
