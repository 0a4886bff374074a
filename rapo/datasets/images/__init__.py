"""Images of a source: which are there, which can be used, and what is said of the others."""
