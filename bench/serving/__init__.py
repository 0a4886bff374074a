"""Benchmarks of a running scorer that look at its processes."""
