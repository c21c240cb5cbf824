"""The way of a delivery through a worker, from its body to its result."""
