"""Messages of notifications, and the times of their retries."""
