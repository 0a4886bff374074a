"""Weights to all rollout workers at once."""
