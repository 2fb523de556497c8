"""One folder for each operation."""
