"""The processes that `up` and `demo` start on one machine."""
