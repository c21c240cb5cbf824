"""Settings and routes: read, checked, and the only readers of the environment."""
