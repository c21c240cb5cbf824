"""Entry point of `python -m app.cli`, for installs without the project itself."""

from app.cli import run

run()
