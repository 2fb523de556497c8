"""One ONNX graph for each precision."""
