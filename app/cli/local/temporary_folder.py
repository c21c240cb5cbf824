"""Temporary folder of a local service."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.errors import ConfigError


@contextmanager
def temporary_folder(prefix: str, *, keep: bool = False) -> Iterator[Path]:
    """Create a folder, and remove it at the end unless it is kept; raises ConfigError."""
    with ExitStack() as stack:
        try:
            name = (
                tempfile.mkdtemp(prefix=prefix)
                if keep
                else stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix))
            )
        except OSError as error:
            problem = f"TMPDIR: no temporary folder can be created ({error.strerror or error})."
            raise ConfigError([f"{problem} Set TMPDIR to a folder that can be written."]) from error
        yield Path(name)
