"""Addition of a webhook secret to an env file.

Only the value changes. dotenv.set_key does not serve: it rewrites the whole line (comment, quotes, `export`),
changes every occurrence, turns CRLF into LF, and leaves the file readable by others.
"""

import os
import re
import tempfile
from pathlib import Path

from app.errors import ConfigError

_SETTING_NAME = "TRUTO_WEBHOOK_SECRET"
# The forms in use in env files: exported, quoted, with a comment at the end.
_SETTING_LINE = re.compile(
    rf"""^(?P<head>\ufeff?[ \t]*(?:export[ \t]+)?{_SETTING_NAME}[ \t]*=[ \t]*)
    (?: '(?P<single>[^'\n]*)' | "(?P<double>[^"\n]*)" | (?P<plain>(?!['"])[^\r\n]*?) )
    (?P<tail>[ \t]*(?:[ \t]\#[^\r\n]*)?)(?=\r?$)""",
    re.MULTILINE | re.VERBOSE,
)
_SETTING_START = re.compile(rf"^\ufeff?[ \t]*(?:export[ \t]+)?{_SETTING_NAME}[ \t]*=", re.MULTILINE)


def merge_secret(text: str, secret: str) -> str:
    """Return the text of an env file with a secret appended to TRUTO_WEBHOOK_SECRET. Pure.

    secret: "webhook_id=value". Raises ConfigError if the present value spans lines or is quoted in parts.
    """
    lines = list(_SETTING_LINE.finditer(text))
    if len(lines) != len(_SETTING_START.findall(text)):
        raise ConfigError([f"--env-file: cannot parse {_SETTING_NAME} in the file. Write it on one line."])
    if not lines:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}{_SETTING_NAME}={secret}\n"
    # If the setting occurs several times, the last one is in effect.
    line = lines[-1]
    kind = next(name for name in ("single", "double", "plain") if line[name] is not None)
    quote = {"single": "'", "double": '"', "plain": ""}[kind]
    known = [part for part in (part.strip() for part in line[kind].split(",")) if part]
    value = ",".join(dict.fromkeys([*known, secret]))
    return f"{text[: line.start()]}{line['head']}{quote}{value}{quote}{line['tail']}{text[line.end() :]}"


class EnvFile:
    """An env file, which need not exist yet.

    Raises ConfigError if it cannot be read, OSError if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        # Replacing a symlink itself would leave its target unchanged.
        self.path = path.resolve()

    def check_writable(self) -> None:
        """Raise ConfigError if a secret could not be added.

        Checked before Truto creates the webhook, because Truto shows the secret only once.
        """
        try:
            merge_secret(self._read_text(), "x=x")
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError([f"--env-file: cannot write {self.path} ({reason})."]) from error

    def add_secret(self, secret: str) -> None:
        """Append a secret, and make the file readable by its owner only."""
        text = merge_secret(self._read_text(), secret)
        # Write a temporary file and rename it: a crash never leaves a partial file. mkstemp's mode is 0600.
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
            # newline="" keeps the line endings.
            with self.path.open(encoding="utf-8", newline="") as file:
                return file.read()
        except FileNotFoundError:
            return ""
        except UnicodeDecodeError as error:
            raise ConfigError([f"--env-file: {self.path} is not UTF-8 text."]) from error
