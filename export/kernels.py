"""Compile the network's kernels ahead of time, for hosts that launch them with the CUDA driver.

The result is one file for each kernel, precision and target, and ``kernels.json`` (`KernelSet`),
which describes each launch. Triton compiles without a GPU; docs/ahead-of-time.md shows a C++ host.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from rich.console import Console

from clinreadnet._version import __version__
from clinreadnet.console import Column, fitted_table, progress_bar
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.files import check_output_folder, whole_folder
from clinreadnet.kernels.compile import (
    POINTER_ALIGNMENT,
    SHARED_MEMORY,
    Resources,
    compiled,
    resources_of,
)
from clinreadnet.kernels.grid import shape_text
from clinreadnet.kernels.ops.ordinal_head.spec import FIRST
from clinreadnet.kernels.registry import OPS
from clinreadnet.kernels.spec import POINTERS, Case, KernelSource, LayerShape, NetworkShape, OpSpec
from clinreadnet.model.network import Block, ClinReadNet, ClinReadNetConfig, PatchMerging
from clinreadnet.precision import PRECISIONS, exported_precisions
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.spec import SIZE

SCHEMA_VERSION = 1
INDEX_NAME = "kernels.json"

FORMATS = ("cubin", "ptx")
TARGETS = {f"sm{capability}": capability for capability in SHARED_MEMORY}

_ELEMENTS = {pointer: name for name, pointer in POINTERS.items()}
_HIDDEN = ("global_scratch", "profile_scratch")
"""Pointers that Triton 3.4 and later append to every kernel. These kernels do not use them."""


@dataclass(frozen=True)
class Argument:
    """A parameter of a kernel.

    Attributes:
        name: name of a tensor or a size. Grids use the names of sizes.
        c_type: "CUdeviceptr" or "int32_t".
        element: type of a tensor's elements; null for a size or a hidden pointer.
        shape: shape of a contiguous tensor in terms of sizes; null for others.
        value: required value: 0 for a hidden pointer.
    """

    name: str
    c_type: str
    element: str | None = None
    shape: str | None = None
    value: int | None = None


@dataclass(frozen=True)
class Kernel:
    """A compiled file with the launch parameters of its kernel.

    Attributes:
        file: file name.
        kind: "cubin" (machine code of ``target``) or "ptx" (the driver compiles it when loaded).
        sha256: SHA-256 of the file.
        name: name of the op, followed by its variant.
        precision: precision of products and of tensors of that element type, such as "fp16".
        target: architecture, such as "sm90".
        compute_capability: compute capability of the target, such as "9.0".
        entry: symbol for ``cuModuleGetFunction``.
        arguments: all parameters in order, including hidden ones.
        grid: [x, y, z], C expressions of B (batch), H, W and the sizes in ``arguments``. Integer
            division rounds down.
        block: [x, y, z] threads: 32 for each warp.
        num_warps: warps per block.
        dynamic_shared_bytes: shared memory per block. Above 48 KiB the host must opt in
            (``CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES``).
        registers: registers per thread, without spills.
        pointer_alignment: the address of every tensor is a multiple of this, in bytes.
        constants: compile-time arguments.
        uses: layers that launch the kernel, with their sizes for a slice of 512 x 512.
        tokens: smallest and largest number of tokens for which PyTorch launches this kernel, if
            others compute the same layers for other numbers; null for no limit. Its results are
            correct for any number.
    """

    file: str
    kind: str
    sha256: str
    name: str
    precision: str
    target: str
    compute_capability: str
    entry: str
    arguments: tuple[Argument, ...]
    grid: tuple[str, str, str]
    block: tuple[int, int, int]
    num_warps: int
    dynamic_shared_bytes: int
    registers: int
    pointer_alignment: int
    constants: dict[str, Any]
    uses: tuple[dict[str, Any], ...]
    tokens: tuple[int, int | None] | None = None


@dataclass(frozen=True)
class KernelSet:
    """Content of ``kernels.json``. Within a ``schema_version``, fields are only added."""

    schema_version: int
    clinreadnet_version: str
    triton_version: str
    preset: str
    kernels: tuple[Kernel, ...]


def network_shape(config: ClinReadNetConfig) -> NetworkShape:
    """Return the layers of a network that ops can run.

    Raises:
        InputError: the network has no attention, as in an ablation.
    """
    if not config.use_attention:
        raise InputError(
            "the network was trained without attention, and kernels are compiled for networks "
            "with it; take another checkpoint, or leave the kernels out"
        )
    with torch.device("meta"):
        model = ClinReadNet(config)
    blocks, linears = [], []
    for name, layer in model.named_modules():
        if not isinstance(layer, Block | PatchMerging):
            continue
        side = SIZE // 4 >> int(name.split(".")[1])  # stages.<stage>.<layer>
        if isinstance(layer, PatchMerging):
            linears.append(LayerShape(name, side, layer.reduction.out_features, linear="merge"))
            continue
        attention = layer.attention
        channels = layer.norm1.weight.numel()
        blocks.append(
            LayerShape(
                name=name,
                side=side,
                channels=channels,
                heads=attention.heads,
                window=attention.window,
                shift=attention.shift,
                octaves=attention.octaves,
                hidden=config.mlp_ratio * channels,
            )
        )
    stem = LayerShape("stem", side=SIZE, channels=config.embed_dim // 2)
    last = blocks[-1]
    outputs = FIRST + config.image_dim
    linears.append(LayerShape("head", last.side, last.channels, hidden=outputs, linear="head"))
    head = LayerShape("head", last.side, config.image_dim)
    statistics = (
        LayerShape("statistics", SIZE // 4, config.embed_dim, window=8, spread="log"),
        LayerShape("novelty", SIZE // 32, 2 * config.embed_dim, window=SIZE // 32, spread="root"),
    )
    return NetworkShape(stem, tuple(blocks), tuple(linears), head, statistics)


def sources(preset: str) -> list[tuple[OpSpec, KernelSource]]:
    """Return the kernels that the network of ``preset`` launches, each with its op.

    Raises:
        InputError: unknown preset.
    """
    network = network_shape(ClinReadNetConfig.from_preset(preset))
    return [(spec, source) for spec in OPS.values() for source in spec.sources(network)]


@dataclass(frozen=True)
class CompiledSource:
    """A kernel of a network, compiled for a precision and a target.

    Attributes:
        source: kernel of the network.
        case: compiled case.
        precision: a name of the table in `clinreadnet.precision`.
        target: one of ``TARGETS``.
        made: kernel compiled by Triton.
        resources: resources of a launch.
    """

    source: KernelSource
    case: Case
    precision: str
    target: str
    made: Any
    resources: Resources

    def written_as(self, kind: str) -> tuple[Kernel, bytes]:
        """Return the description and the bytes of the kernel's file in one of ``FORMATS``."""
        code = self.made.asm[kind]
        code = code.encode() if isinstance(code, str) else code
        metadata = self.made.metadata
        kernel = Kernel(
            file=f"{self.source.name}.{self.precision}.{self.target}.{kind}",
            kind=kind,
            sha256=digest(code),
            name=self.source.name,
            precision=self.precision,
            target=self.target,
            compute_capability=f"{self.case.capability / 10:.1f}",
            entry=metadata.name,
            arguments=tuple(_arguments(self.source, self.case)),
            grid=(self.source.grid(self.case).text, "1", "1"),
            block=(32 * metadata.num_warps, 1, 1),
            num_warps=metadata.num_warps,
            dynamic_shared_bytes=metadata.shared,
            registers=self.resources.registers,
            pointer_alignment=POINTER_ALIGNMENT,
            constants=self.case.constants,
            uses=self.source.uses,
            tokens=self.source.tokens,
        )
        return kernel, code


def compile_source(
    spec: OpSpec,
    source: KernelSource,
    precision: str,
    target: str,
    ptx_version: int | None = None,
) -> CompiledSource | None:
    """Compile a kernel of a network; None if the op does not support precision, target or shape.

    Args:
        spec: spec of the op.
        source: the kernel.
        precision: precision that PyTorch exports.
        target: one of ``TARGETS``.
        ptx_version: version of the PTX, 87 for ISA 8.7; default the newest of Triton.

    Raises:
        CheckFailed: the kernel spills registers or does not fit the target.
    """
    case = spec.case(TARGETS[target], PRECISIONS[precision].torch_dtype, source.shape)
    if case is None:
        return None
    made = compiled(case, ptx_version)
    taken = resources_of(made)
    _check_fits(f"{source.name} {precision} {target}", taken, case.capability)
    return CompiledSource(source, case, precision, target, made, taken)


def export_kernels(
    out: str | os.PathLike[str],
    *,
    formats: Sequence[str],
    targets: Sequence[str],
    precisions: Sequence[str] | None = None,
    preset: str = "small",
    force: bool = False,
) -> KernelSet:
    """Compile the kernels of a network; write them and ``kernels.json``.

    Args:
        out: folder to create.
        formats: formats of the files, from ``FORMATS``.
        targets: architectures, from ``TARGETS``.
        precisions: precisions that PyTorch exports; default all.
        preset: preset of the network.
        force: replace ``out`` if it exists.

    Returns:
        Content of ``kernels.json``.

    Raises:
        InputError: a format, target, precision or preset is unknown, or ``out`` exists.
        CheckFailed: a kernel spills registers or does not fit the target. Nothing is written.
    """
    formats = _known("formats", formats, FORMATS)
    targets = _known("targets", targets, TARGETS)
    known = exported_precisions()
    precisions = known if precisions is None else _known("precisions", precisions, known)
    chosen = sources(preset)
    kernels: list[Kernel] = []
    check_output_folder(out, force=force)
    with whole_folder(out, force=force) as folder, progress_bar() as bar:
        total = len(targets) * len(precisions) * len(chosen)
        task = bar.add_task("Compiling kernels", total=total)
        for target in targets:
            for precision in precisions:
                for spec, source in chosen:
                    made = compile_source(spec, source, precision, target)
                    for kind in formats if made is not None else ():
                        assert made is not None
                        kernel, code = made.written_as(kind)
                        (folder / kernel.file).write_bytes(code)
                        kernels.append(kernel)
                    bar.advance(task)
        result = KernelSet(SCHEMA_VERSION, __version__, triton.__version__, preset, tuple(kernels))
        (folder / INDEX_NAME).write_text(
            json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8"
        )
    return result


def _known(
    parameter: str, wanted: Sequence[str], known: Sequence[str] | Mapping[str, Any]
) -> list[str]:
    for name in wanted:
        if name not in known:
            raise InputError(f"{parameter}={name}: unknown; known: {', '.join(known)}")
    if not wanted:
        raise InputError(f"`{parameter}` is empty; name at least one of {', '.join(known)}")
    return list(dict.fromkeys(wanted))


def _check_fits(what: str, taken: Resources, capability: int) -> None:
    limit = SHARED_MEMORY[capability] * 1024
    if taken.spills or taken.shared > limit:
        raise CheckFailed(
            f"{what}: spills {taken.stack} bytes and takes {taken.shared} of {limit} bytes of "
            "shared memory; its launch configuration does not suit this target"
        )


def _arguments(source: KernelSource, case: Case) -> Iterator[Argument]:
    for name, kind in case.signature.items():
        if kind == "i32":
            yield Argument(name, "int32_t")
        elif kind != "constexpr":
            tensor = name.removesuffix("_ptr")
            shape = shape_text(source.shapes[tensor])
            yield Argument(tensor, "CUdeviceptr", _ELEMENTS[kind], shape)
    for name in _HIDDEN:
        yield Argument(name, "CUdeviceptr", value=0)


def print_kernels(result: KernelSet, console: Console) -> None:
    """Print one line for each file."""
    columns = [
        Column("registers", [str(kernel.registers) for kernel in result.kernels], 1),
        Column("shared\nbytes", [str(k.dynamic_shared_bytes) for k in result.kernels], 2),
        Column("threads", [str(kernel.block[0]) for kernel in result.kernels], 3),
    ]
    console.print(fitted_table(console, "file", [k.file for k in result.kernels], columns))
