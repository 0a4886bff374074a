"""Score: `rapo score`, from the names on its command line to the rows of its output."""
