"""Replay stored deliveries, import them from a file, forward them to another receiver."""
