"""Register the package's plugins with a real binding, and print what it would build of them.

    python -m support.plugin_contract MODULE < requests.json    # in a process of its own

MODULE is the binding, importable with stub libraries on LD_LIBRARY_PATH. The requests are a list
of `Request`; the answers, one for each, are on standard output.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from support.real_bindings import ROOT, RealBinding, stubs, unpacked

TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
BROKEN = (
    "grid-rounded-down",
    "grid-plus-one",
    "integer-missing",
    "integers-swapped",
    "hidden-kept",
    "typed-otherwise",
)
"""Mistakes to make on purpose."""


@dataclass(frozen=True)
class Request:
    """One plugin and the shapes of one call.

    Attributes:
        network: name of one of `bench.records.ptx.NETWORKS`.
        source: name of the kernel.
        precision: precision of the plugin.
        target: architecture of the GPU.
        shapes: shapes of the inputs.
        broken: one of ``BROKEN``, or empty.
    """

    network: str
    source: str
    precision: str
    target: str
    shapes: tuple[tuple[int, ...], ...]
    broken: str = ""

    @property
    def name(self) -> str:
        """Return the name of the plugin, which is unique."""
        parts = (self.source, self.precision, self.target, self.network, self.broken)
        return "_".join(parts).replace("-", "_")


@functools.cache
def kernel(network: str, source: str, precision: str, target: str) -> Any:
    """Return the package's `PluginKernel`."""
    from bench.records.ptx import known_networks
    from clinreadnet.export.kernels import sources
    from clinreadnet.export.plugins.kernel import plugin_kernel

    with known_networks():
        ((spec, chosen),) = ((op, known) for op, known in sources(network) if known.name == source)
    return plugin_kernel(spec, chosen, precision, target)


def ask(binding: RealBinding, requests: Sequence[Request]) -> list[dict[str, Any]]:
    """Return what a binding answers to each request.

    The fields of `plugin_host.Built`, or "refused", the plugin's error.

    Raises:
        Unavailable: the binding cannot be had here.
    """
    folder = unpacked(binding)
    environment = dict(os.environ)
    environment["LD_LIBRARY_PATH"] = str(stubs(binding, folder))
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "tests"), str(ROOT), str(folder)))
    result = subprocess.run(
        [sys.executable, "-m", "support.plugin_contract", binding.module],
        input=json.dumps([asdict(request) for request in requests]),
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, f"{binding.title}: {result.stderr}"
    answers: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[-1])
    return answers


def main(name: str) -> None:
    """Answer the requests of standard input."""
    from support import plugin_host

    trt = plugin_host.import_binding(name)
    from clinreadnet.export.plugins import register
    from clinreadnet.runtime.backends.flavours import load_flavour

    flavour, module = load_flavour("tensorrt")
    plugins = register.plugin_module(module, flavour)
    answers = []
    for fields in json.load(sys.stdin):
        request = Request(**fields)
        plugin = kernel(request.network, request.source, request.precision, request.target)
        dtypes = [getattr(trt.DataType, TYPES[argument.element]) for argument in plugin.inputs]
        if request.broken == "typed-otherwise":
            dtypes[0] = trt.DataType.FLOAT
        plugin = broken(plugin, request)
        register.register_plugins(module, plugins, {request.name: plugin})
        try:
            built = plugin_host.build(trt, request.name, register.NAMESPACE, request.shapes, dtypes)
        except ValueError as error:
            answers.append({"refused": str(error)})
        else:
            answers.append(asdict(replace(built, out_type=built.out_type.name)))
    assert trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS is not None
    print(json.dumps(answers))


def broken(plugin: Any, request: Request) -> Any:
    """Return a plugin's kernel with the mistake that the request asks for."""
    from clinreadnet.kernels.grid import TOKENS

    launch, kind = plugin.launch, request.broken
    if kind == "grid-rounded-down":
        block = launch.constants["BLOCK_M"]
        assert plugin.grid.text == f"((tokens + {block - 1}) / {block})"
        return replace(plugin, grid=TOKENS // block)
    if kind == "grid-plus-one":
        return replace(plugin, grid=plugin.grid + 1)
    arguments = list(launch.arguments)
    first = next(i for i, argument in enumerate(arguments) if argument.shape is None)
    if kind == "integer-missing":
        del arguments[first]
    elif kind == "integers-swapped":
        arguments[first : first + 2] = reversed(arguments[first : first + 2])
    elif kind == "hidden-kept":
        return replace(plugin, ptx=_whole(request))
    return replace(plugin, launch=replace(launch, arguments=tuple(arguments)))


def _whole(request: Request) -> str:
    """Return the kernel's PTX as Triton writes it."""
    from clinreadnet.export.kernels import compile_source, sources

    ((spec, source),) = (
        (op, source) for op, source in sources(request.network) if source.name == request.source
    )
    compiled = compile_source(spec, source, request.precision, request.target)
    assert compiled is not None
    return compiled.written_as("ptx")[1].decode()


if __name__ == "__main__":
    main(sys.argv[1])
