"""Reading labels: what it takes for large tables."""
