"""Structure: what a critique must have before its content is judged."""
