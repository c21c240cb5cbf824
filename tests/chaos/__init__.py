"""The whole service under force: real senders, servers and faults, and a count of what came of it."""
