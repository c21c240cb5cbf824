"""The path of a delivery through a worker, from body to results."""
