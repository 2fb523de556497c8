"""The attention half of a block in one launch."""
