"""The sinks: databases and folders that records are written to."""
