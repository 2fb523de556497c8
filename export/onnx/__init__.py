"""Export ONNX graphs, one for each precision."""
