"""Compile the network's kernels ahead of time, for hosts that launch them with the CUDA driver.

The result is one file for each kernel, precision and target, and ``kernels.json`` (`KernelSet`),
which describes each launch. Triton compiles without a GPU; docs/ahead-of-time.md shows a C++ host.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
from rich.console import Console
from rich.table import Table

from clinreadnet._version import __version__
from clinreadnet.console import progress_bar
from clinreadnet.errors import CheckFailed, InputError
from clinreadnet.files import whole_folder
from clinreadnet.kernels.compile import (
    POINTER_ALIGNMENT,
    SHARED_MEMORY,
    Case,
    Resources,
    attention_block_case,
    compiled,
    mlp_case,
    resources_of,
    sobel_stem_case,
    window_attention_case,
)
from clinreadnet.kernels.dispatch import FUSED_CHANNELS
from clinreadnet.kernels.grid import Formula
from clinreadnet.kernels.ops.attention_block.kernel import attention_block_grid
from clinreadnet.kernels.ops.mlp.kernel import mlp_grid
from clinreadnet.kernels.ops.sobel_stem.kernel import sobel_stem_grid
from clinreadnet.kernels.ops.window_attention.kernel import window_attention_grid
from clinreadnet.model.attention import MultiTemperatureAttention
from clinreadnet.model.network import Block, ClinReadNet, ClinReadNetConfig
from clinreadnet.runtime.bundle.manifest import digest
from clinreadnet.spec import SIZE

SCHEMA_VERSION = 1
INDEX_NAME = "kernels.json"

FORMATS = ("cubin", "ptx")
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TARGETS = {f"sm{capability}": capability for capability in SHARED_MEMORY}

_ELEMENTS = {"*fp32": "float32", "*fp16": "float16", "*bf16": "bfloat16"}
_HIDDEN = ("global_scratch", "profile_scratch")
"""Pointers that Triton 3.4 and later append to every kernel; these kernels do not use them."""


@dataclass(frozen=True)
class Argument:
    """One parameter of a kernel.

    Attributes:
        name: name of a tensor or a size; grids use the names of sizes.
        c_type: "CUdeviceptr" or "int32_t".
        element: type of a tensor's elements; null for a size or a hidden pointer.
        shape: shape of a contiguous tensor in terms of sizes; null for the others.
        value: value that must be passed: 0 for a hidden pointer.
    """

    name: str
    c_type: str
    element: str | None = None
    shape: str | None = None
    value: int | None = None


@dataclass(frozen=True)
class Kernel:
    """One compiled file, and how to launch its kernel.

    Attributes:
        file: name in the folder.
        kind: "cubin" (machine code of ``target``) or "ptx" (the driver compiles it when loaded).
        sha256: SHA-256 of the file.
        name: the op and what it is compiled for.
        precision: fp32, fp16 or bf16; of products, and of the tensors whose element says so.
        target: architecture, such as "sm90".
        compute_capability: compute capability of its GPUs, such as "9.0".
        entry: symbol for ``cuModuleGetFunction``.
        arguments: arguments in order, with the hidden ones.
        grid: [x, y, z], C expressions of the sizes B (batch), H, W and those in ``arguments``;
            integer division rounds down.
        block: [x, y, z] threads: 32 for each warp.
        num_warps: warps of a block.
        dynamic_shared_bytes: shared memory of a block; above 48 KiB the host must opt in
            (``CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES``).
        registers: registers of a thread; none is spilled.
        pointer_alignment: the address of every tensor is a multiple of this, in bytes.
        constants: compile-time arguments.
        uses: layers that launch it, with their sizes for a slice of 512 x 512.
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


@dataclass(frozen=True)
class KernelSet:
    """Content of ``kernels.json``; fields are only added while ``schema_version`` is the same."""

    schema_version: int
    clinreadnet_version: str
    triton_version: str
    preset: str
    kernels: tuple[Kernel, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """A kernel as the network calls it, before the precision and the GPU are chosen.

    Attributes:
        name: in file names.
        case: what to compile, for a compute capability and a dtype; None where the op refuses them.
        grid: of a case, in terms of sizes.
        shapes: of each tensor, by the name of its pointer without ``_ptr``.
        uses: as in `Kernel`.
    """

    name: str
    case: Callable[[int, torch.dtype], Case | None]
    grid: Callable[[Case], Formula]
    shapes: Mapping[str, str]
    uses: tuple[dict[str, Any], ...]


def _sobel_stem(model: ClinReadNet) -> Iterator[Source]:
    c0 = model.stem.edge.out_channels

    def grid(case: Case) -> Formula:
        sizes = Formula("B"), Formula("H"), Formula("W")
        return sobel_stem_grid(*sizes, case.constants["BLOCK_H"], case.constants["BLOCK_W"])

    yield Source(
        name="sobel_stem",
        case=lambda capability, dtype: sobel_stem_case(capability, c0, dtype),
        grid=grid,
        shapes={
            "x": "[B, 1, H, W]",
            "weight": f"[{c0}, 4, 3, 3]",
            "bias": f"[{c0}]",
            "out": f"[B, (H + 1) / 2, (W + 1) / 2, {c0}]",
        },
        uses=({"layer": "stem", "H": SIZE, "W": SIZE},),
    )


def _window_attention(model: ClinReadNet) -> Iterator[Source]:
    uses: dict[tuple[int, int, int, int], list[dict[str, Any]]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, MultiTemperatureAttention):
            heads, octaves = layer.gate_logits.shape
            head_dim = layer.projection.in_features // heads
            side = SIZE // 4 >> int(name.split(".")[1])  # stages.<stage>.<block>.attention
            uses.setdefault((layer.window, layer.shift, head_dim, octaves), []).append(
                {"layer": name, "H": side, "W": side, "heads": heads}
            )

    for key, layers in uses.items():
        yield _attention_source(*key, tuple(layers))


def _attention_source(
    window: int, shift: int, head_dim: int, octaves: int, uses: tuple[dict[str, Any], ...]
) -> Source:
    def case(capability: int, dtype: torch.dtype) -> Case:
        return window_attention_case(capability, window, shift, head_dim, octaves, dtype)

    def grid(case: Case) -> Formula:
        sizes = Formula("B"), Formula("H"), Formula("W"), Formula("heads")
        return window_attention_grid(*sizes, window, case.constants["BLOCK_M"])

    return Source(
        name=f"window_attention_shift{shift}",
        case=case,
        grid=grid,
        shapes={
            "qkv": f"[B, H, W, 3 * heads * {head_dim}]",
            "bias": f"[heads, {window**2}, {window**2}]",
            "inv_temperature": "[heads]",
            "gates": f"[heads, {octaves}]",
            "out": f"[B, H, W, heads * {head_dim}]",
        },
        uses=uses,
    )


def _fused_blocks(model: ClinReadNet) -> Iterator[Source]:
    attention: dict[tuple[int, int, int, int, int], list[dict[str, Any]]] = {}
    mlps: dict[int, list[dict[str, Any]]] = {}
    for name, block in model.named_modules():
        if isinstance(block, Block) and (c := block.norm1.weight.numel()) in FUSED_CHANNELS:
            heads, octaves = block.attention.gate_logits.shape
            side = SIZE // 4 >> int(name.split(".")[1])  # stages.<stage>.<block>
            key = c, heads, block.attention.window, block.attention.shift, octaves
            use = {"layer": name, "H": side, "W": side}
            attention.setdefault(key, []).append(use)
            mlps.setdefault(c, []).append({"layer": name, "tokens": side * side})
    for key, layers in attention.items():
        yield _attention_block_source(*key, tuple(layers))
    for c, layers in mlps.items():
        yield _mlp_source(c, tuple(layers))


def _attention_block_source(
    c: int, heads: int, window: int, shift: int, octaves: int, uses: tuple[dict[str, Any], ...]
) -> Source:
    def case(capability: int, dtype: torch.dtype) -> Case | None:
        if capability < 80 or dtype == torch.float32:
            return None
        return attention_block_case(capability, c, heads, window, shift, octaves, dtype)

    return Source(
        name=f"attention_block_{c}_shift{shift}",
        case=case,
        grid=lambda case: attention_block_grid(Formula("B"), Formula("H"), Formula("W"), window),
        shapes={
            "x": f"[B, H, W, {c}]",
            "norm_weight": f"[{c}]",
            "norm_bias": f"[{c}]",
            "qkv_weight": f"[{3 * c}, {c}]",
            "qkv_bias": f"[{3 * c}]",
            "projection_weight": f"[{c}, {c}]",
            "projection_bias": f"[{c}]",
            "position_bias": f"[{heads}, {window**2}, {window**2}]",
            "inv_temperature": f"[{heads}]",
            "gates": f"[{heads}, {octaves}]",
            "out": f"[B, H, W, {c}]",
        },
        uses=uses,
    )


def _mlp_source(c: int, uses: tuple[dict[str, Any], ...]) -> Source:
    return Source(
        name=f"mlp_{c}",
        case=lambda capability, dtype: None if capability < 80 else mlp_case(capability, c, dtype),
        grid=lambda case: mlp_grid(Formula("tokens"), case.constants["BLOCK_M"]),
        shapes={
            "x": f"[tokens, {c}]",
            "norm_weight": f"[{c}]",
            "norm_bias": f"[{c}]",
            "fc1_weight": f"[{4 * c}, {c}]",
            "fc1_bias": f"[{4 * c}]",
            "fc2_weight": f"[{c}, {4 * c}]",
            "fc2_bias": f"[{c}]",
            "out": f"[tokens, {c}]",
        },
        uses=uses,
    )


OPS = (_sobel_stem, _window_attention, _fused_blocks)
"""For each op, its kernels in a network."""


def sources(preset: str) -> list[Source]:
    """Return the kernels that the network of ``preset`` launches.

    Raises:
        InputError: unknown preset.
    """
    config = ClinReadNetConfig.from_preset(preset)
    with torch.device("meta"):
        model = ClinReadNet(config)
    return [source for op in OPS for source in op(model)]


def export_kernels(
    out: str | os.PathLike[str],
    *,
    formats: Sequence[str],
    targets: Sequence[str],
    precisions: Sequence[str] = tuple(PRECISIONS),
    preset: str = "small",
    force: bool = False,
) -> KernelSet:
    """Compile the kernels of a network and write them with ``kernels.json``.

    Args:
        out: folder to create.
        formats: of the files, some of ``FORMATS``.
        targets: architectures, some of ``TARGETS``.
        precisions: some of ``PRECISIONS``.
        preset: the network.
        force: replace ``out`` if it exists.

    Returns:
        The content of ``kernels.json``.

    Raises:
        InputError: an unknown format, target, precision or preset, or ``out`` exists.
        CheckFailed: a kernel spills registers or does not fit the target; nothing is written.
    """
    formats = _known("formats", formats, FORMATS)
    targets = _known("targets", targets, TARGETS)
    precisions = _known("precisions", precisions, PRECISIONS)
    chosen = sources(preset)
    kernels: list[Kernel] = []
    with whole_folder(out, force=force) as folder, progress_bar() as bar:
        total = len(targets) * len(precisions) * len(chosen)
        task = bar.add_task("Compiling kernels", total=total)
        for target in targets:
            for precision in precisions:
                for source in chosen:
                    case = source.case(TARGETS[target], PRECISIONS[precision])
                    if case is None:
                        bar.advance(task)
                        continue
                    made = compiled(case)
                    taken = resources_of(made)
                    _check_fits(f"{source.name} {precision} {target}", taken, case.capability)
                    for kind in formats:
                        file = f"{source.name}.{precision}.{target}.{kind}"
                        code = made.asm[kind]
                        code = code.encode() if isinstance(code, str) else code
                        (folder / file).write_bytes(code)
                        kernels.append(
                            Kernel(
                                file=file,
                                kind=kind,
                                sha256=digest(code),
                                name=source.name,
                                precision=precision,
                                target=target,
                                compute_capability=f"{case.capability / 10:.1f}",
                                entry=made.metadata.name,
                                arguments=tuple(_arguments(source, case)),
                                grid=(source.grid(case).text, "1", "1"),
                                block=(32 * made.metadata.num_warps, 1, 1),
                                num_warps=made.metadata.num_warps,
                                dynamic_shared_bytes=made.metadata.shared,
                                registers=taken.registers,
                                pointer_alignment=POINTER_ALIGNMENT,
                                constants=case.constants,
                                uses=source.uses,
                            )
                        )
                    bar.advance(task)
        result = KernelSet(SCHEMA_VERSION, __version__, triton.__version__, preset, tuple(kernels))
        (folder / INDEX_NAME).write_text(
            json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8"
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
    if taken.stack or taken.shared > limit:
        raise CheckFailed(
            f"{what}: spills {taken.stack} bytes and takes {taken.shared} of {limit} bytes of "
            "shared memory; its launch configuration does not suit this target"
        )


def _arguments(source: Source, case: Case) -> Iterator[Argument]:
    for name, kind in case.signature.items():
        if kind == "i32":
            yield Argument(name, "int32_t")
        elif kind != "constexpr":
            tensor = name.removesuffix("_ptr")
            yield Argument(tensor, "CUdeviceptr", _ELEMENTS[kind], source.shapes[tensor])
    for name in _HIDDEN:
        yield Argument(name, "CUdeviceptr", value=0)


def print_kernels(result: KernelSet, console: Console) -> None:
    """Print one line for each file."""
    table = Table("file", "registers", "shared memory, bytes", "threads")
    for kernel in result.kernels:
        numbers = (kernel.registers, kernel.dynamic_shared_bytes, kernel.block[0])
        table.add_row(kernel.file, *map(str, numbers))
    console.print(table)
