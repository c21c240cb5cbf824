"""Settings from the environment, and routes from their file; each is checked before anything starts."""
