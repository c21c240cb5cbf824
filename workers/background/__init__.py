"""The background tasks of `rapidbridge worker`, beside the workers."""
