"""What runs one artifact: ONNX Runtime and TensorRT."""
