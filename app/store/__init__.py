"""Where deliveries, their outcomes and the runs they belong to are kept: SQLite or PostgreSQL."""
