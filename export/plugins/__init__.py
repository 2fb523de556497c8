"""The Triton kernels inside TensorRT engines: plugins that are compiled ahead of time."""
