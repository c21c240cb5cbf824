"""What is found out about a sync job run: whether it may start, must be stopped, is over, is complete."""
