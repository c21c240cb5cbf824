"""Notification messages and their retries: signed JSON, or a text for Slack. Pure."""
