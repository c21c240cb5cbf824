"""What Truto sends, and how it says so. Pure: no network, clock, file or environment."""
