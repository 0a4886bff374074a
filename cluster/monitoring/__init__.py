"""Monitoring: metrics, traces and logs of a live run."""
