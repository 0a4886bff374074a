"""UI: the page for people."""
