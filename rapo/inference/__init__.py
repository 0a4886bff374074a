"""Inference: vLLM behind two small engines, and the thread that runs one."""
