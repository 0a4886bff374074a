"""Files: everything that a run writes and reads on disk."""
