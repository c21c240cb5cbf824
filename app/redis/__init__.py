"""Redis: the RQ queue, and the spool used while the database is unavailable."""
