"""The scorer as a Ray Serve deployment, and the gateway in front of it."""
