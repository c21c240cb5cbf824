"""The SQL sink: one table a resource, JSON by default, on PostgreSQL and SQLite."""
