"""Label files: reads tables of every kind, batch by batch."""
