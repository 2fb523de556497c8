"""Backends, each of which runs one artifact: CPU engine, ONNX Runtime, OpenVINO and TensorRT."""
