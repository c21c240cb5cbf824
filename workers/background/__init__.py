"""The periodic tasks of a worker process tree."""
