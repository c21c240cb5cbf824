"""The tests that every sink passes, for this project's sinks and for those of its users."""

from app.sink_contract.suite import RESOURCE, SinkContract

__all__ = ["RESOURCE", "SinkContract"]
