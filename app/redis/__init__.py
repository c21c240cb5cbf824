"""Redis: the RQ queue, and the spool that replaces the inbox while the database is away."""
