"""The files sink, on a local disk or an object store."""
