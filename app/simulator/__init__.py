"""Simulator of Truto over real HTTP: signed events, retries, stopped runs, and an API.

The modules in reading order: `plan`, `session` and `run` send the events; `pages`, `sample_records` and
`event_writer` build them; `page_sender` delivers, repeats, delays or loses pages; `report` keeps the result.
`api` and `api_endpoints` answer like Truto's API.
"""
