"""Commands: what `rapo` does on a command line."""
