"""Models: model folders and their cards."""
