"""Redis: the RQ queue, and the spool for times without a database."""
