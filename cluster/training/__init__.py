"""Training: the RAPO loop, its buffers and its checkpoints."""
