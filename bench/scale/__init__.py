"""Benchmarks of large fleets. `python -m bench.scale` runs them, `bench.scale.paper` plans them."""
