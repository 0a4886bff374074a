"""Learner group: DeepSpeed ranks as Ray actors, and their recovery."""
