"""Export a checkpoint to a verified bundle: ONNX graphs, TensorRT engines, verification."""

if __name__ != "clinreadnet.export":
    raise ImportError(
        "import clinreadnet.export instead: the folder export/ is installed under that name"
    )
