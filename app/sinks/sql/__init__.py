"""The SQL sink: one table for each resource, on PostgreSQL and SQLite."""
