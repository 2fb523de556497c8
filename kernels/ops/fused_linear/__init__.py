"""A linear layer with LayerNorm, GELU and residual in one launch."""
