"""The path of a delivery through a worker: read, parsed, routed, written, saved."""
