"""GELU in the kernels."""
