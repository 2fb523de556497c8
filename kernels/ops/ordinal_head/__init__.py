"""The image's grades from the votes of its tiles."""
