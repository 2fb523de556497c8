"""Backends that run one artifact: ONNX Runtime, OpenVINO and TensorRT."""
