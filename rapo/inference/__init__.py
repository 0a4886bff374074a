"""vLLM behind one small engine interface."""
