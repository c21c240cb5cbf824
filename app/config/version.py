"""The version of this release."""

# Equal to the version in pyproject.toml: an install from requirements.txt has no metadata to read.
VERSION = "0.2.0"
