"""The contract suite that every sink passes."""

from app.sink_contract.suite import RESOURCE, SinkContract

__all__ = ["RESOURCE", "SinkContract"]
