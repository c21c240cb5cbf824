"""A stand-in for Truto over real HTTP: signs, waits, retries, gives up and stops as Truto does."""
