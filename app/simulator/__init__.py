"""Simulator of Truto over real HTTP: its webhook events and its API.

The modules in reading order: `plan`, `session` and `run` send the events; `pages`, `sample_records` and
`event_writer` build them; `page_sender` delivers, repeats, delays or loses pages; `report` keeps the result.
`api` and `api_endpoints` answer like Truto's API.
"""
