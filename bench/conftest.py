"""What every recorded run says of itself: the command, and the versions it measured."""

import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

PACKAGES = ("clinreadnet", "numpy", "onnxruntime", "onnxruntime-gpu", "torch", "triton", "pydicom")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    machine_info.pop("node", None)
    machine_info["packages"] = {}
    for name in PACKAGES:
        try:
            machine_info["packages"][name] = version(name)
        except PackageNotFoundError:
            continue


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict) -> None:
    output_json["command"] = " ".join(["pytest", *sys.argv[1:]])
