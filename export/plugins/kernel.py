"""Compile a kernel of a network for TensorRT engines.

The PTX has an old ISA and no hidden parameters of Triton.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from clinreadnet.errors import CheckFailed
from clinreadnet.export.kernels import TARGETS, Argument, Kernel, compile_source
from clinreadnet.kernels.grid import Formula
from clinreadnet.kernels.spec import KernelSource, OpSpec
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.files import digest

SHARED_BYTES = 48 * 1024
"""Largest shared memory of a launch without a function attribute. TensorRT does not document that
it sets this attribute."""


ISA = {75: 80, 80: 80, 86: 80, 89: 80, 90: 80, 100: 86, 120: 87}
"""Version of the PTX ISA by compute capability: 8.0 of CUDA 12.0, or the first that supports the
GPU. Old drivers reject newer PTX."""

_ENTRY = r"(\.visible\s+\.entry\s+{entry}\s*\()(?P<parameters>[^)]*)(\))"
_VERSION = re.compile(r"^\.version (\d+\.\d+)$", re.M)


class Native(Exception):
    """A kernel cannot be a plugin: TensorRT's own layers run. The message has the reason."""


@dataclass(frozen=True)
class PluginKernel:
    """A compiled kernel with its launch parameters.

    Attributes:
        source: what the network launches.
        grid: number of programs, in terms of sizes.
        launch: entry as in ``kernels.json``, without hidden arguments.
        ptx: text of the PTX, without hidden parameters.
        isa: version of the PTX ISA, such as "8.7".
    """

    source: KernelSource
    grid: Formula
    launch: Kernel
    ptx: str
    isa: str

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """Input tensors, in order."""
        return tuple(a for a in self.launch.arguments if a.shape and a.name != "out")

    @property
    def extras(self) -> tuple[str, ...]:
        """Names of the integer arguments, which are between inputs and output."""
        return tuple(a.name for a in self.launch.arguments if a.shape is None)

    @property
    def output(self) -> Argument:
        """Output tensor."""
        return self.launch.arguments[-1]


def plugin_kernel(spec: OpSpec, source: KernelSource, precision: str, target: str) -> PluginKernel:
    """Compile a kernel for engines. Triton caches compiled kernels.

    Args:
        spec: specification of the op.
        source: what the network launches.
        precision: precision that PyTorch exports.
        target: architecture, such as "sm89".

    Raises:
        Native: the op does not support precision, target or shape, or TensorRT cannot launch the
            kernel.
    """
    if target not in TARGETS:
        raise Native(f"no kernel is compiled for {target}; known: {', '.join(TARGETS)}")
    capability = TARGETS[target]
    refusal = spec.refusal(capability, PRECISIONS[precision].torch_dtype, source.shape)
    if refusal is not None:
        raise Native(f"its kernel {refusal}")
    try:
        made = compile_source(spec, source, precision, target, ISA[capability])
    except CheckFailed as error:
        raise Native(str(error)) from None
    assert made is not None
    metadata = made.made.metadata
    if metadata.shared > SHARED_BYTES:
        raise Native(
            f"takes {metadata.shared} bytes of shared memory on {target}, a plugin at most "
            f"{SHARED_BYTES}"
        )
    scratch = metadata.global_scratch_size + metadata.profile_scratch_size
    if scratch:
        raise Native(f"needs {scratch} bytes of scratch memory, which TensorRT does not pass")
    return prepared(source, source.grid(made.case), *made.written_as("ptx"))


def prepared(source: KernelSource, grid: Formula, kernel: Kernel, code: bytes) -> PluginKernel:
    """Return the plugin kernel of a file from ``export-kernels``.

    Args:
        source: what the network launches.
        grid: number of programs, in terms of sizes.
        kernel: description of the kernel.
        code: bytes of the PTX file.

    Raises:
        CheckFailed: the arguments are not inputs, integers and an output, or the kernel reads a
            hidden parameter.
    """
    hidden = [a for a in kernel.arguments if a.value is not None]
    arguments = tuple(a for a in kernel.arguments if a.value is None)
    kinds = ["i" if a.shape is None else "o" if a.name == "out" else "t" for a in arguments]
    order = "".join(kinds)
    if order != "t" * order.count("t") + "i" * order.count("i") + "o":
        raise CheckFailed(
            f"{kernel.file}: TensorRT passes inputs, integers and the output in this order; the "
            f"kernel takes {', '.join(a.name for a in arguments)}"
        )
    text = code.decode()
    if parameter_count(text, kernel.entry) != len(kernel.arguments):
        raise CheckFailed(
            f"{kernel.file}: has {parameter_count(text, kernel.entry)} parameters, not "
            f"{len(kernel.arguments)}; this Triton hides others"
        )
    ptx = without_hidden(text, kernel.entry, len(hidden))
    launch = replace(kernel, arguments=arguments, sha256=digest(ptx.encode()))
    return PluginKernel(source, grid, launch, ptx, isa_of(ptx))


def isa_of(ptx: str) -> str:
    """Return the ISA version of PTX, such as "8.7".

    Raises:
        CheckFailed: the PTX has no version.
    """
    match = _VERSION.search(ptx)
    if match is None:
        raise CheckFailed("the PTX names no ISA; it is not from Triton")
    return match[1]


def without_hidden(ptx: str, entry: str, hidden: int) -> str:
    """Remove the last parameters of a kernel from PTX, because TensorRT does not pass them.

    Args:
        ptx: text of the PTX file.
        entry: symbol of the kernel.
        hidden: number of parameters to remove.

    Raises:
        CheckFailed: the kernel does not exist, or it reads one of the parameters.
    """
    head = _head(ptx, entry)
    parameters = [parameter.strip() for parameter in head["parameters"].split(",")]
    kept, cut = parameters[: len(parameters) - hidden], parameters[len(parameters) - hidden :]
    body = ptx[head.end() :]
    for parameter in cut:
        name = parameter.split()[-1]
        if re.search(rf"{re.escape(name)}\b", body):
            raise CheckFailed(f"{entry}: reads its hidden parameter {name}, which TensorRT lacks")
    return ptx[: head.start()] + head[1] + "\n\t" + ",\n\t".join(kept) + "\n" + head[3] + body


def parameter_count(ptx: str, entry: str) -> int:
    """Return the number of parameters of a kernel.

    Raises:
        CheckFailed: the kernel does not exist.
    """
    return len(_head(ptx, entry)["parameters"].split(","))


def _head(ptx: str, entry: str) -> re.Match[str]:
    """Return the match of a kernel's name and parameters."""
    head = re.search(_ENTRY.format(entry=re.escape(entry)), ptx)
    if head is None:
        raise CheckFailed(f"{entry}: not a kernel of this PTX")
    return head
