"""The MLP half of a block in one launch."""
