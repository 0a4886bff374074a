"""Object storage: its rates beside those of other clients."""
