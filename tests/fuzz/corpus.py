"""The corpus: the inputs from which mutation starts, and all that once broke a property."""

from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"


def list_files(target: str) -> list[Path]:
    """Return the files of a target, each with one input, in the order of their names."""
    return sorted((FOLDER / target).iterdir())


def read_corpus(target: str) -> list[bytes]:
    """Return the inputs of a target."""
    return [path.read_bytes() for path in list_files(target)]
