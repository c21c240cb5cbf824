"""The warehouse sink: loads into analytical databases through dlt."""
