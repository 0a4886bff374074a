"""Replica: the Ray Serve deployment that holds the engine."""
