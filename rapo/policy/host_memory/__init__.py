"""Tensors of a rank in its host's memory."""
