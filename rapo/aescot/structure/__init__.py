"""Structure: the form that a critique must have before its content is judged."""
