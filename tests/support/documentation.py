"""Reads the README and the pages of docs/ for tests."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for folder, pattern in ((ROOT, "*.md"), (ROOT / "docs", "**/*.md"), (ROOT / ".github", "**/*.md"))
    for path in sorted(folder.glob(pattern))
}
# A fence may be indented, in a list.
_FENCE = re.compile(
    r"(?:^ *<!-- (?P<mark>[^\n]*) -->\n)?"
    r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)(?P=fence)$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block of a page, without its indentation.

    line: of the opening fence, from 1. mark: the comment in the line before it, or empty.
    """

    page: str
    line: int
    language: str
    mark: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def _read_code_blocks() -> Iterator[CodeBlock]:
    for page, text in PAGES.items():
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start("fence")) + 1
            content = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
            yield CodeBlock(page, line, match["language"].strip(), match["mark"] or "", content)


CODE_BLOCKS = list(_read_code_blocks())


def list_code_blocks(*languages: str) -> list[CodeBlock]:
    """Return the fenced blocks of all pages in these languages."""
    return [block for block in CODE_BLOCKS if block.language in languages]


def read_marked_block(page: str, mark: str) -> str:
    """Return the code block that follows the first `<!-- mark -->`."""
    return read_marked_blocks(page, mark)[0]


def read_marked_blocks(page: str, mark: str) -> list[str]:
    """Return the code blocks that follow each `<!-- mark -->`."""
    return [block.text for block in CODE_BLOCKS if (block.page, block.mark) == (page, mark)]


def read_section(page: str, title: str) -> str:
    """Return the text below a heading, up to the next heading of any level."""
    after = PAGES[page].partition(f"# {title}\n")[2]
    assert after, f"{page} has no heading {title}"
    return re.split(r"^##+ ", after, flags=re.MULTILINE)[0]


def read_marked_table(page: str, mark: str) -> dict[str, str]:
    """Return the first and the last column of the table that follows `<!-- mark -->`, without backticks."""
    table = PAGES[page].partition(f"<!-- {mark} -->\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", table, re.MULTILINE))
