"""The store: deliveries, their outcomes, runs and notifications, in SQLite or PostgreSQL."""
