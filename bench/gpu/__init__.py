"""Benchmarks of a machine with a GPU. `python -m bench.gpu` runs them."""
