"""Backends that run one artifact: the CPU engine, ONNX Runtime, OpenVINO and TensorRT."""
