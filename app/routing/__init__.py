"""Routing of records: the keys, versions, filters and fields that a route gives them."""
