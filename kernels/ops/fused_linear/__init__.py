"""A linear layer in one launch with the LayerNorm, GELU and residual around it."""
