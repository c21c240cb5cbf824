"""Runs the command where the project is not installed: `python -m app.cli`."""

from app.cli import main

main(prog_name="rapidbridge")
