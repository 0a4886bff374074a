"""Rollout fleet: workers that join, leave and die during a run."""
