"""Settings and routes, validated together before anything starts."""
