"""Sync job runs: whether they may start, must be stopped, and are complete."""
