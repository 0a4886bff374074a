"""Weights on their way from learner to rollout workers."""
