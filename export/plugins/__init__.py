"""Triton kernels inside TensorRT engines, as plugins that are compiled ahead of time."""
