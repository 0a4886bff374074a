"""Utilities: atomic folders, manifests, caches, seeds."""
