"""Processes that `up` and `demo` start on one machine."""
