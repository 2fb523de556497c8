"""The two operations the network spends its time in, each behind one function."""

if __name__ != "clinreadnet.kernels":
    raise ImportError(
        "import clinreadnet.kernels instead: the folder kernels/ is installed under that name"
    )
