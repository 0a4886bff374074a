"""Serving: the commands of the scorer, its gateway and its page."""
