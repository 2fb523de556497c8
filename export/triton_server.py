"""`clinreadnet export-triton-server`: write a bundle as a model repository for Triton.

    REPO/clinreadnet_fp32_onnx/config.pbtxt            onnxruntime backend, GPU if there is one
                               1/clinreadnet.fp32.onnx
                               warmup/golden0.hu ...   golden slices for the warm-up
    REPO/clinreadnet_fp16_tensorrt/config.pbtxt        tensorrt backend, one engine for each GPU
                                   1/clinreadnet.fp16.sm89.engine ...

`config.pbtxt` is the text format of Triton's `ModelConfig`. Its dimensions do not include the
batch.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console

from clinreadnet.console import print_lines
from clinreadnet.errors import InputError, shell_word
from clinreadnet.files import check_output_folder, whole_folder
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime.bundle.files import load_manifest, read_listed
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Artifact, Manifest, listed_files
from clinreadnet.spec import RESEARCH_USE, SIZE

_PREFIX = "clinreadnet_"
_VERSION = "1"
_WARMUP_FOLDER = "warmup"  # the name that Triton requires

_TYPES = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.FLOAT16: "TYPE_FP16"}
_DTYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16}


class _Word(str):
    """A value of an enumeration, written without quotes."""


_Message = list[tuple[str, Any]]
"""Fields of a message in order. A repeated field occurs once per value; a message is a nested
list."""


@dataclass(frozen=True)
class ServedModel:
    """A model of the repository. ``files`` are file names of the bundle."""

    name: str
    backend: str
    files: tuple[str, ...]
    max_batch_size: int


@dataclass(frozen=True)
class Repository:
    """The models, and the reason for each omitted file of the bundle, by name."""

    path: Path
    bundle: Path
    models: tuple[ServedModel, ...]
    left_out: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``--json``."""
        return asdict(self) | {"path": str(self.path), "bundle": str(self.bundle)}


@dataclass(frozen=True)
class _Plan:
    """A model to write: artifacts (engines by compute capability) and their graph."""

    name: str
    backend: str
    graph: Artifact
    artifacts: dict[str, Artifact]


def write_repository(
    bundle: str | os.PathLike[str], out: str | os.PathLike[str], *, force: bool = False
) -> Repository:
    """Write a Triton model repository with all artifacts of a bundle that Triton can load.

    The hash of each file is checked against the manifest.

    Args:
        bundle: verified bundle.
        out: folder of the repository, created atomically.
        force: replace ``out`` if it contains only models of this command.

    Returns:
        The models, and the reason for each omitted artifact.

    Raises:
        InputError: the bundle is not verified, a file differs from the manifest, Triton cannot load
            any artifact, or ``out`` exists without ``force`` or contains other files.
    """
    bundle, out = Path(bundle), Path(out)
    manifest = load_manifest(bundle)
    if not manifest.verified:
        raise InputError(
            f"{bundle}: the bundle is not verified; run `clinreadnet verify {shell_word(bundle)}`"
        )
    check_output_folder(out, force=force)
    if out.exists():
        check_models(out)
    plans, left_out = _plan(manifest)
    if not plans:
        reasons = "; ".join(f"{file}: {reason}" for file, reason in left_out.items())
        raise InputError(
            f"{bundle}: holds nothing that Triton can load ({reasons}); make a bundle of ONNX "
            "graphs with `clinreadnet export --out bundle`, and give it as `bundle`"
        )
    golden = read_golden(bundle, manifest.golden)["hu"]
    size = sum(listed.size for listed in listed_files(manifest))
    check_output_folder(out, force=force, inputs=[bundle], size=size)
    with whole_folder(out, force=force) as folder:
        models = tuple(_write_model(folder, bundle, manifest, plan, golden) for plan in plans)
    return Repository(out, bundle, models, left_out)


def check_models(out: Path) -> None:
    """Raise InputError if the folder ``out`` contains something besides models of this command."""
    others = [name for name in sorted(os.listdir(out)) if not name.startswith(_PREFIX)]
    if others:
        raise InputError(
            f"{out}: also holds {others[0]}, which force=True would remove; name another folder "
            "(`tritonserver` takes several model repositories)"
        )


def print_repository(repository: Repository, console: Console) -> None:
    """Print a line for each model, and the command that serves them."""
    for model in repository.models:
        print_lines(
            console,
            f"{repository.path / model.name}: {model.backend}, batch up to {model.max_batch_size}, "
            f"{', '.join(model.files)}",
        )
    path = repository.path.resolve()
    print_lines(console, f"serve it with: tritonserver --model-repository={path}", RESEARCH_USE)


def _plan(manifest: Manifest) -> tuple[list[_Plan], dict[str, str]]:
    """Return the models to write, graphs first, and the reasons against other artifacts."""
    plans: dict[str, _Plan] = {}
    left_out: dict[str, str] = {}
    for artifact in sorted(manifest.artifacts, key=lambda a: a.kind != "onnx"):
        if artifact.kind == "onnx":
            if artifact.plugins is not None:
                left_out[artifact.file] = "the graph without plugins computes the same"
                continue
            if PRECISIONS[artifact.precision].dynamic:
                left_out[artifact.file] = "its 8-bit products run on a CPU, also beside a GPU"
                continue
            name = f"{_PREFIX}{artifact.precision}_onnx"
            plans[name] = _Plan(name, "onnxruntime", artifact, {"": artifact})
            continue
        if artifact.kind == "checkpoint":
            left_out[artifact.title] = "Triton has no backend for checkpoints"
            continue
        reason = _refusal(artifact)
        if reason is None:
            name = f"{_PREFIX}{artifact.precision}_tensorrt"
            graph = manifest.artifact(str(artifact.graph))
            plan = plans.setdefault(name, _Plan(name, "tensorrt", graph, {}))
            if plan.artifacts.setdefault(_capability(artifact), artifact) is not artifact:
                reason = "another engine of its precision and GPU is in the repository"
        if reason is not None:
            left_out[artifact.file] = reason
    return list(plans.values()), left_out


def _refusal(engine: Artifact) -> str | None:
    """Return why Triton cannot serve an engine, or None."""
    if engine.flavour != "tensorrt":
        return "Triton's tensorrt backend loads no TensorRT-RTX engines; serve the ONNX graph"
    if engine.weights_stripped:
        return "its weights are stripped, and Triton refits no engine"
    if engine.graph is None:
        return "the manifest does not name its graph; export the bundle again"
    if engine.batch.min > 1:
        return f"its smallest batch is {engine.batch.min}, and Triton also sends single slices"
    return None


def _capability(engine: Artifact) -> str:
    """Return the compute capability of a target such as ``sm89`` in Triton's form, ``8.9``."""
    match = re.fullmatch(r"sm(\d+)(\d)", str(engine.target))
    if match is None:
        raise InputError(f"{engine.file}: unknown target {engine.target!r}; export it again")
    return f"{match[1]}.{match[2]}"


def _write_model(
    folder: Path, bundle: Path, manifest: Manifest, plan: _Plan, golden: NDArray[np.int16]
) -> ServedModel:
    types = _tensor_types(read_listed(bundle, plan.graph), bundle / plan.graph.file)
    ranges = [a.batch for a in plan.artifacts.values()]
    max_batch = min(batch.max for batch in ranges)
    preferred = sorted({max_batch, *(min(batch.opt, max_batch) for batch in ranges)})
    model = folder / plan.name
    (model / _VERSION).mkdir(parents=True)
    (model / _WARMUP_FOLDER).mkdir()
    files = {a.file: a for a in plan.artifacts.values()}
    for file, artifact in files.items():
        (model / _VERSION / file).write_bytes(read_listed(bundle, artifact))
    warmups: _Message = []
    for number, size in enumerate(sorted({1, *preferred})):
        file = f"golden{number}.hu"
        hu = golden[number % len(golden)].astype(_DTYPES[types["hu"]])
        (model / _WARMUP_FOLDER / file).write_bytes(hu.tobytes())
        value = [("data_type", _Word(types["hu"])), *_dims((1, SIZE, SIZE))]
        value.append(("input_data_file", file))
        warmup = [("name", f"golden, batch {size}"), ("batch_size", size)]
        warmups.append(("model_warmup", [*warmup, ("inputs", [("key", "hu"), ("value", value)])]))
    config: _Message = [
        ("name", plan.name),
        ("backend", plan.backend),
        ("max_batch_size", max_batch),
        ("input", [("name", "hu"), ("data_type", _Word(types["hu"])), *_dims((1, SIZE, SIZE))]),
        *(("output", _output(o.name, types[o.name], o.shape[1:])) for o in manifest.outputs),
        ("version_policy", [("latest", [("num_versions", 1)])]),
        ("dynamic_batching", [("preferred_batch_size", size) for size in preferred]),
        *_backend_fields(plan),
        *warmups,
        *_parameters(manifest, plan),
    ]
    (model / "config.pbtxt").write_text("\n".join(_text(config)) + "\n", encoding="utf-8")
    return ServedModel(plan.name, plan.backend, tuple(files), max_batch)


def _output(name: str, kind: str, shape: Sequence[str | int]) -> _Message:
    """Return the message of an output. Triton needs a dimension besides the batch."""
    fields: _Message = [("name", name), ("data_type", _Word(kind))]
    return [*fields, *_dims(shape)] if shape else [*fields, *_dims((1,)), ("reshape", [])]


def _dims(shape: Sequence[str | int]) -> _Message:
    return [("dims", size) for size in shape]


def _backend_fields(plan: _Plan) -> _Message:
    """Return the fields for device and file of a model."""
    if plan.backend == "onnxruntime":
        # TF32 is the CUDA provider's default for float32 and misses the fp32 budget.
        cuda = [("name", "cuda"), ("parameters", [("key", "use_tf32"), ("value", "0")])]
        return [
            ("instance_group", [("kind", _Word("KIND_AUTO")), ("count", 1)]),
            ("default_model_filename", plan.graph.file),
            ("optimization", [("execution_accelerators", [("gpu_execution_accelerator", cuda)])]),
        ]
    anywhere = [a.file for a in plan.artifacts.values() if a.hardware_compatible]
    return [
        ("instance_group", [("kind", _Word("KIND_GPU")), ("count", 1)]),
        *(
            ("cc_model_filenames", [("key", capability), ("value", engine.file)])
            for capability, engine in plan.artifacts.items()
        ),
        *(("default_model_filename", file) for file in anywhere[:1]),
    ]


def _parameters(manifest: Manifest, plan: _Plan) -> _Message:
    """Return the parameters that identify the network to clients."""
    facts = {
        "research_use": manifest.research_use,
        "clinreadnet_version": manifest.clinreadnet_version,
        "weights_sha256": manifest.model.weights_sha256,
    }
    if manifest.model.novelty_threshold is not None:
        facts["novelty_threshold"] = repr(manifest.model.novelty_threshold)
    for artifact in plan.artifacts.values():
        facts[f"sha256 {artifact.file}"] = artifact.sha256
    return [
        ("parameters", [("key", key), ("value", [("string_value", value)])])
        for key, value in facts.items()
    ]


def _tensor_types(graph: bytes, path: Path) -> dict[str, str]:
    """Return Triton's type of each input and output of an ONNX graph, by name."""
    model = onnx.load_from_string(graph)
    types = {}
    for tensor in (*model.graph.input, *model.graph.output):
        kind = tensor.type.tensor_type.elem_type
        if kind not in _TYPES:
            raise InputError(f"{path}: {tensor.name} is neither float32 nor float16")
        types[tensor.name] = _TYPES[kind]
    return types


def _text(message: _Message, indent: str = "") -> list[str]:
    """Return the lines of a message in protobuf's text format."""
    lines: list[str] = []
    for name, value in message:
        if isinstance(value, list):
            lines += [f"{indent}{name} {{", *_text(value, indent + "  "), f"{indent}}}"]
        else:
            text = value if isinstance(value, _Word) else json.dumps(value)
            lines.append(f"{indent}{name}: {text}")
    return lines
