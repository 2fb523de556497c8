"""The statement of docs/serving.md on Windows, checked with the installed TensorRT-RTX."""

from __future__ import annotations

from typing import Any

import pytest
from support.export_models import RTX_MISSING


@pytest.mark.skipif(RTX_MISSING is not None, reason=str(RTX_MISSING))
def test_tensorrt_rtx_builds_for_no_other_platform() -> None:
    """It ignores the setting without an exception, so the property must be read back."""
    from clinreadnet.runtime.backends.flavours import load_flavour

    _, trt = load_flavour("tensorrt-rtx")
    errors: list[str] = []

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            errors.append(message)

    config = trt.Builder(Logger()).create_builder_config()
    errors.clear()
    config.runtime_platform = trt.RuntimePlatform.WINDOWS_AMD64
    assert config.runtime_platform == trt.RuntimePlatform.SAME_AS_BUILD
    assert any("setRuntimePlatform" in error for error in errors)
