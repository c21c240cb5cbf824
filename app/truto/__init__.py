"""Truto's wire formats: signatures, events, records, runs, webhooks and logs.

`client` and `webhook_sender` use the network. All other modules are pure: no network, clock, file, environment.
"""
