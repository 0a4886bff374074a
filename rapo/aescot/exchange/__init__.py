"""Exchange: critiques that others have written, and those of a run for others."""
