"""Deliveries of records, as a worker passes them to a sink."""

from app.sink_contract.sent_records import NOW, SentRecords, Written, send, write, write_batch

__all__ = ["NOW", "SentRecords", "Written", "send", "write", "write_batch"]
