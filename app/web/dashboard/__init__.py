"""The dashboard: pages for people, on the web process."""
