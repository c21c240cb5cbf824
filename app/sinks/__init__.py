"""The sinks: stores that records are written to."""
