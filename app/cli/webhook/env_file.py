"""Puts a secret into a file of settings: everything else in it stays as it is."""

import os
import re
import tempfile
from pathlib import Path

from app.errors import ConfigError

_SETTING_NAME = "TRUTO_WEBHOOK_SECRET"
# As `.env` files are written: perhaps exported, quoted, or with a comment behind.
_SETTING_LINE = re.compile(
    rf"""^(?P<head>[ \t]*(?:export[ \t]+)?{_SETTING_NAME}[ \t]*=[ \t]*)
    (?: '(?P<single>[^'\n]*)' | "(?P<double>[^"\n]*)" | (?P<plain>(?!['"])[^\r\n]*?) )
    (?P<tail>[ \t]*(?:[ \t]\#[^\r\n]*)?)(?=\r?$)""",
    re.MULTILINE | re.VERBOSE,
)
_SETTING_START = re.compile(rf"^[ \t]*(?:export[ \t]+)?{_SETTING_NAME}[ \t]*=", re.MULTILINE)


def merge_secret(text: str, secret: str) -> str:
    """Return the text of a settings file with one more secret in it, after those that it has. Pure.

    secret: "webhook_id=value". Raises ConfigError where the setting is written in a way not read here.
    """
    lines = list(_SETTING_LINE.finditer(text))
    if len(lines) != len(_SETTING_START.findall(text)):
        raise ConfigError([f"--env-file: the {_SETTING_NAME} in it cannot be read. Write it on one line."])
    if not lines:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}{_SETTING_NAME}={secret}\n"
    # The last one holds.
    line = lines[-1]
    kind = next(name for name in ("single", "double", "plain") if line[name] is not None)
    quote = {"single": "'", "double": '"', "plain": ""}[kind]
    known = [part for part in (part.strip() for part in line[kind].split(",")) if part]
    value = ",".join(dict.fromkeys([*known, secret]))
    return f"{text[: line.start()]}{line['head']}{quote}{value}{quote}{line['tail']}{text[line.end() :]}"


class EnvFile:
    """A file of settings. Raises ConfigError where it cannot be read, OSError where it cannot be written."""

    def __init__(self, path: Path) -> None:
        # Where it is a link, what it leads to is changed.
        self.path = path.resolve()

    def check_writable(self) -> None:
        """Find out beforehand whether a secret can be added: Truto tells it only once."""
        try:
            merge_secret(self._read_text(), "x=x")
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError([f"--env-file: {self.path} cannot be written ({reason})."]) from error

    def add_secret(self, secret: str) -> None:
        """Add a secret; nobody but its owner can read the file from then on."""
        text = merge_secret(self._read_text(), secret)
        # Beside it, then renamed: there is never half a file.
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _read_text(self) -> str:
        try:
            # As it stands, line ends included.
            with self.path.open(encoding="utf-8", newline="") as file:
                return file.read()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError as error:
            raise ConfigError([f"--env-file: {self.path} is no UTF-8 text."]) from error
