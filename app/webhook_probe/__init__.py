"""Probe of a webhook: shapes of the events that Truto simulates, without values.

The modules in reading order: `webhook_probe` has the events sent and waits for them; `body_shape` and
`known_names` describe a body; `findings` answers the questions that Truto's documentation leaves open.
"""
