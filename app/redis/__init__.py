"""Redis: the RQ queue, and the spool that stands in for the inbox."""
