"""Nodes: whether the nodes of a cluster fit a run, for `rapo check --cluster`."""
