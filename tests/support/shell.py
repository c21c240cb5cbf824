"""Splits the shell lines of documentation into single commands."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_PROMPT = re.compile(r"[$#] ")


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """One simple command: its line, the names that it sets before it, and its words."""

    line: str
    assigned: tuple[str, ...]
    words: tuple[str, ...]


def list_lines(text: str, *, is_console: bool) -> list[str]:
    """Return the lines that a user types. is_console: only lines with a prompt are commands, without it."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [line[2:] for line in lines if _PROMPT.match(line)] if is_console else lines


def split_line(line: str) -> Iterator[ShellCommand]:
    """Yield the commands of a line, those in `$(…)` included."""
    for match in _SUBSTITUTION.finditer(line):
        yield from split_line(match[1])
    lexer = shlex.shlex(_SUBSTITUTION.sub("substituted", line), posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word.strip("&|;"):
            words.append(word)
        elif words:
            count = next(
                (place for place, each in enumerate(words) if not _ASSIGNMENT.match(each)), len(words)
            )
            names = tuple(each.partition("=")[0] for each in words[:count])
            yield ShellCommand(line, names, tuple(words[count:]))
            words = []
