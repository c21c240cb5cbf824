"""The whole service under faults, followed by an audit of its data."""
