"""The sinks: stores that deliveries are written to, all behind the contract in `base`."""
