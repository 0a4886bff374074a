"""Configuration files, one per machine shape. `cpu.toml` is the embedded default."""
