"""Cluster: arranges the roles of `actors/` and `services/` into runs and commands."""
