"""Benchmarks: each a module to run, and each a ratio against something that runs side by side."""
