"""Evaluation of any models on any collections: `rapo evaluate`."""
