"""Several runs on the same test rows, beside each other and row by row."""
