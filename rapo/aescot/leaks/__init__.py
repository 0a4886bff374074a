"""Leaks: finds what reveals a human score in a critique."""
