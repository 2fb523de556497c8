import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Triton decides when a kernel's module is imported, so that each process is of one kind;
    # tests/kernels/test_interpreter.py starts the other one.
    other = [item for item in items if INTERPRETED != bool(item.get_closest_marker("interpret"))]
    if other:
        items[:] = [item for item in items if item not in other]
        config.hook.pytest_deselected(items=other)

    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))
