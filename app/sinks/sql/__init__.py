"""The SQL sink: one table for each resource, on PostgreSQL, SQLite, MySQL and MariaDB."""
