"""Truto's wire formats: signatures, events, records, runs, webhooks and logs.

Only `client` and `webhook_sender` use the network. The rest is pure: no network, clock, file or environment.
"""
