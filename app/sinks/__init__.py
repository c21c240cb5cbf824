"""The sinks: databases, folders, endpoints and functions that records are written to."""
