"""Attention of the learner: over shared prefixes, and over the windows of vision towers."""
