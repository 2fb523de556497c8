"""LayerNorm in the fused kernels."""
