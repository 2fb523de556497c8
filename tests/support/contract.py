"""Run the package's own builder and runner against a binding, and print what they used of it.

    python contract.py MODULE FLAVOUR PART     # in a process of its own: PART is builder or runner

MODULE is the real binding, importable with stub libraries on LD_LIBRARY_PATH. Whatever our code
uses that the binding does not declare raises here.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from clinreadnet.runtime.backends import flavours
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.gpu import Gpu
from support.binding import Binding, Instance, check_overrides

GPU = Gpu("contract", "sm89", 2**34)
BATCH = BatchRange(1, 4, 16)
SHAPES = {
    "hu": (1, 512, 512),
    "score": (),
    "probs": (21,),
    "quality_map": (16, 16),
    "novelty": (),
}


def install(real: types.ModuleType, flavour: str, script: dict[tuple[str, str], Any]) -> Binding:
    """Put a recorded binding where the package imports it."""
    binding = Binding(real, script)
    row = flavours.newest(flavour)
    for name in row.modules + row.lean_modules:
        sys.modules[name] = binding.module(name)
    return binding


def run_builder(real: types.ModuleType, flavour: str) -> set[str]:
    """Build with every option the flavour offers, and check a graph."""
    import onnx
    from onnx import helper

    from clinreadnet.console import progress_bar
    from clinreadnet.errors import InputError
    from clinreadnet.export.engines import build as tensorrt
    from clinreadnet.export.engines import options
    from clinreadnet.export.engines.check import ask_parser

    products = (real.LayerType.MATRIX_MULTIPLY, real.LayerType.CONVOLUTION)
    half = (real.float16, real.float16)
    layers: list[Instance] = []
    outputs: list[Instance] = []

    def build(builder: Instance, network: Instance, config: Instance) -> bytes:
        monitor = config.progress_monitor
        overridden.update(check_overrides(type(monitor)))
        monitor.phase_start("phase", None, 2)
        assert monitor.step_complete("phase", 0)
        monitor.phase_finish("phase")
        return b"engine"

    script: dict[tuple[str, str], Any] = {
        ("OnnxParser", "supports_model_v2"): lambda parser, content: False,
        ("OnnxParser", "num_errors"): 1,
        ("OnnxParser", "num_subgraphs"): 1,
        ("OnnxParser", "is_subgraph_supported"): lambda parser, index: False,
        ("OnnxParser", "get_subgraph_nodes"): lambda parser, index: [0],
        ("ParserError", "desc"): lambda error: "reason\nand more",
        ("INetworkDefinition", "num_layers"): 2,
        ("INetworkDefinition", "get_layer"): lambda network, index: layers[index],
        ("ITensor", "shape"): (-1, 1, 512, 512),
        ("Builder", "build_serialized_network"): build,
        ("EngineInspector", "get_engine_information"): lambda inspector, form: "{}",
    }
    binding = install(real, flavour, script)
    overridden: set[str] = set()
    for kind, dtype in zip(products, half, strict=True):
        output = Instance(binding, real.ITensor, dtype=dtype)
        script["ILayer", "get_output"] = lambda layer, index: outputs[layers.index(layer)]
        outputs.append(output)
        layers.append(Instance(binding, real.ILayer, type=kind))
    for module in (options, tensorrt):
        module.find_gpus = lambda: [GPU]  # type: ignore[attr-defined]

    with tempfile.TemporaryDirectory() as folder, progress_bar() as bar:
        offered = flavours.newest(flavour).options
        cache = Path(folder) / "cache"
        chosen = options.BuildOptions(
            version_compatible="version_compatible" in offered,
            hardware_compatible="hardware_compatible" in offered,
            strip_weights="strip_weights" in offered,
            timing_cache=cache if "timing_cache" in offered else None,
            optimization_level=3 if "optimization_level" in offered else None,
            workspace_mib=64 if "workspace_mib" in offered else None,
            platform="windows" if "platform" in offered else None,
        )
        assert set(chosen.asked()) == offered
        builder = tensorrt.EngineBuilder(
            "graph.onnx", precision="fp16", flavour=flavour, islands={}
        )
        (logger,) = binding.constructed["Builder"]
        overridden.update(check_overrides(type(logger)))
        logger.log(real.ILogger.INTERNAL_ERROR, "message\nmore")
        engine = builder.build("sm89", BATCH, bar, chosen)
        builder.write(engine, Path(folder) / "x.engine", "sm89", BATCH)
        assert cache.exists() == ("timing_cache" in offered)

        script["OnnxParser", "parse_from_file"] = lambda parser, path: False
        try:
            tensorrt.EngineBuilder("graph.onnx", precision="fp16", flavour=flavour)
        except InputError as error:
            assert "reason" in str(error)
        value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        node = helper.make_node("Relu", ["x"], ["y"], name="relu")
        model = helper.make_model(helper.make_graph([node], "g", [value], []))
        _, module = flavours.load_flavour(flavour)
        (blocker,) = ask_parser(module, b"", model)
        assert blocker.node == "relu"
    return binding.touched | overridden


def run_runner(real: types.ModuleType, flavour: str, lean: bool) -> set[str]:
    """Load an engine, refit it where the binding has a parser, and run two batches."""
    import numpy as np

    from clinreadnet.runtime import gpu
    from clinreadnet.runtime.backends import cuda_graph
    from clinreadnet.runtime.backends.kernel_cache import write_kernels
    from clinreadnet.runtime.backends.tensorrt import TensorRTBackend
    from clinreadnet.runtime.bundle.manifest import Artifact, BuiltOn
    from support.fake_pycuda import DriverLibrary, FakeGpu

    device = FakeGpu()
    package = types.ModuleType("pycuda")
    package.driver = device.module()  # type: ignore[attr-defined]
    sys.modules |= {"pycuda": package, "pycuda.driver": package.driver}
    for place in (gpu, cuda_graph):
        place.load_driver = lambda: DriverLibrary(device)  # type: ignore[attr-defined]
    names = list(SHAPES)
    script: dict[tuple[str, str], Any] = {
        ("Runtime", "get_engine_validity"): lambda runtime, header: (real.EngineValidity.VALID, 0),
        ("Runtime", "engine_header_size"): 4,
        ("ICudaEngine", "num_io_tensors"): len(SHAPES),
        ("ICudaEngine", "get_tensor_name"): lambda engine, index: names[index],
        ("ICudaEngine", "get_tensor_shape"): lambda engine, name: (-1, *SHAPES[name]),
        ("ICudaEngine", "get_tensor_dtype"): lambda engine, name: real.float32,
        ("ICudaEngine", "get_tensor_profile_shape"): lambda engine, name, profile: [
            (n, *SHAPES[name]) for n in (BATCH.min, BATCH.opt, BATCH.max)
        ],
        ("IExecutionContext", "update_device_memory_size_for_shapes"): lambda context: 64,
    }
    binding = install(real, flavour, script)
    row, module = flavours.load_flavour(flavour, lean=lean)
    artifact = Artifact(
        file="x.engine",
        kind="tensorrt-engine",
        precision="fp32",
        sha256="0" * 64,
        size=6,
        batch=BATCH,
        toolchain={},
        built_on=BuiltOn("linux-x86_64"),
        flavour=row.name,
        target="sm89",
        version_compatible=True,
        weights_stripped=hasattr(real, "OnnxParserRefitter"),
    )
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        write_kernels(cache, b"kernels")
        backend = TensorRTBackend(
            b"engine",
            artifact=artifact,
            flavour=row,
            trt=module,
            batch=4,
            weights=b"graph",
            cache=cache,
        )
        (logger,) = binding.constructed["Runtime"]
        overridden = check_overrides(type(logger))
        for n in (4, 1, 4):
            backend.run(np.zeros((n, 1, 512, 512), np.float32))
        backend.close()
    return binding.touched | overridden


def main(module: str, flavour: str, part: str) -> None:
    """Print what one part used of one binding, as JSON."""
    real = importlib.import_module(module)
    if part == "builder":
        touched = run_builder(real, flavour)
    else:
        touched = run_runner(real, flavour, lean="lean" in module)
    print(json.dumps({"version": real.__version__, "touched": sorted(touched)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
