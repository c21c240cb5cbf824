"""Replays: redeliver stored deliveries, import a file, forward to a receiver.

Nothing here prints or prompts: progress goes to an observer that the caller passes.
"""
