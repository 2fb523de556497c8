"""TensorRT engines: building, options, checks."""
