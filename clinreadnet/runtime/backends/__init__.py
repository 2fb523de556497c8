"""Backends that run one artifact: ONNX Runtime and TensorRT."""
