"""GELU, as the kernels compute it."""
