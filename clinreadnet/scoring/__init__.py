"""Score a series or an archive with a bundle."""
