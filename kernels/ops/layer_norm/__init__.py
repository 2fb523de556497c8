"""LayerNorm, as the fused kernels compute it."""
