"""Support: what several benchmarks share."""
