"""The Triton kernels inside TensorRT engines, as quick-deployable plugins compiled ahead of time."""
