"""Services: the scorer as a Ray Serve deployment, the gateway in front of it, and the page for
people."""
