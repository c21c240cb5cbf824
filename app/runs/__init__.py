"""Sync job runs: starting, limits, reconciliation and notifications."""
