"""The model repository for Triton Inference Server, read as the server reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from support.tiny_bundle import write_bundle
from tritonclient.grpc import model_config_pb2
from typer.testing import CliRunner

from clinreadnet.cli import app
from clinreadnet.errors import InputError
from clinreadnet.export.triton_server import Repository, write_repository
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Artifact, BatchRange

DTYPES = {"tensor(float)": ("TYPE_FP32", np.float32), "tensor(float16)": ("TYPE_FP16", np.float16)}
SETTINGS = model_config_pb2.ModelConfig


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of two graphs, TensorRT engines for two GPUs, and a TensorRT-RTX engine."""
    folder = write_bundle(tmp_path_factory.mktemp("triton") / "bundle")
    add_engine(folder, "clinreadnet.fp16.sm89.engine", target="sm89")
    add_engine(folder, "clinreadnet.fp16.sm120.engine", target="sm120")
    add_engine(folder, "clinreadnet.fp16.sm89.rtx.engine", target="sm89", flavour="tensorrt-rtx")
    return folder


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return write_repository(bundle, tmp_path_factory.mktemp("served") / "models")


def add_engine(bundle: Path, file: str, **fields: Any) -> None:
    """List ``file`` as an engine of the float16 graph. It is never loaded."""
    manifest = load_manifest(bundle)
    content = file.encode()
    (bundle / file).write_bytes(content)
    engine = replace(
        manifest.artifact("clinreadnet.fp16.onnx"),
        **{"file": file, "kind": "tensorrt-engine", "flavour": "tensorrt", "target": "sm89"}
        | {"graph": "clinreadnet.fp16.onnx", "sha256": digest(content), "size": len(content)}
        | fields,
    )
    write_manifest(replace(manifest, artifacts=(*manifest.artifacts, engine)), bundle)


def read_config(model: Path) -> Any:
    return text_format.Parse((model / "config.pbtxt").read_text(), SETTINGS())


def models(repository: Repository) -> list[Path]:
    return [repository.path / model.name for model in repository.models]


def test_every_variant_is_a_model_of_its_own(repository: Repository) -> None:
    assert {m.name: (m.backend, m.files) for m in repository.models} == {
        "clinreadnet_fp32_onnx": ("onnxruntime", ("clinreadnet.fp32.onnx",)),
        "clinreadnet_fp16_onnx": ("onnxruntime", ("clinreadnet.fp16.onnx",)),
        "clinreadnet_fp16_tensorrt": (
            "tensorrt",
            ("clinreadnet.fp16.sm89.engine", "clinreadnet.fp16.sm120.engine"),
        ),
    }
    assert sorted(path.name for path in repository.path.iterdir()) == sorted(
        model.name for model in repository.models
    )
    for path, model in zip(models(repository), repository.models, strict=True):
        config = read_config(path)
        assert (config.name, config.backend) == (path.name, model.backend)
        assert config.version_policy.latest.num_versions == 1
        assert sorted(file.name for file in (path / "1").iterdir()) == sorted(model.files)


def test_the_files_are_the_bundles(bundle: Path, repository: Repository) -> None:
    for path, model in zip(models(repository), repository.models, strict=True):
        facts = {key: value.string_value for key, value in read_config(path).parameters.items()}
        assert facts["weights_sha256"] == load_manifest(bundle).model.weights_sha256
        assert facts["research_use"].startswith("Research use only")
        for file in model.files:
            content = (path / "1" / file).read_bytes()
            assert content == (bundle / file).read_bytes()
            assert facts[f"sha256 {file}"] == digest(content)


def test_inputs_and_outputs_are_those_of_the_graph(bundle: Path, repository: Repository) -> None:
    """Dimensions omit the batch; an output with only the batch is reshaped."""
    for path in models(repository):
        config = read_config(path)
        graph = "clinreadnet.fp32.onnx" if "fp32" in path.name else "clinreadnet.fp16.onnx"
        session = onnxruntime.InferenceSession(bundle / graph, providers=["CPUExecutionProvider"])
        tensors = {t.name: t for t in (*config.input, *config.output)}
        real = {t.name: t for t in (*session.get_inputs(), *session.get_outputs())}
        assert tensors.keys() == real.keys()
        for name, tensor in tensors.items():
            shape = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
            assert ["batch", *shape] == real[name].shape
            assert model_config_pb2.DataType.Name(tensor.data_type) == DTYPES[real[name].type][0]
            assert len(tensor.dims) > 0  # Triton refuses a tensor without
        assert list(tensors["score"].dims) == [1]


def test_batches_come_from_the_profile(repository: Repository) -> None:
    for path in models(repository):
        config = read_config(path)
        assert config.max_batch_size == 8
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]


def test_warm_up_sends_golden_slices_at_each_preferred_batch(
    bundle: Path, repository: Repository
) -> None:
    """Triton sends ``batch_size`` requests of one slice, each read from a file in `warmup`."""
    golden = read_golden(bundle, load_manifest(bundle).golden)
    for path in models(repository):
        config = read_config(path)
        assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4, 8]
        for number, warmup in enumerate(config.model_warmup):
            (given,) = warmup.inputs.values()
            assert list(warmup.inputs) == ["hu"]
            assert (list(given.dims), given.data_type) == (
                list(config.input[0].dims),
                config.input[0].data_type,
            )
            dtype = np.float16 if "fp16" in path.name else np.float32
            hu = np.fromfile(path / "warmup" / given.input_data_file, dtype)
            np.testing.assert_array_equal(hu.reshape(512, 512), golden["hu"][number].astype(dtype))


def test_a_warm_up_slice_gets_its_golden_score(bundle: Path, repository: Repository) -> None:
    path = models(repository)[0]
    config = read_config(path)
    hu = np.fromfile(path / "warmup" / "golden1.hu", np.float32)
    session = onnxruntime.InferenceSession(
        path / "1" / config.default_model_filename, providers=["CPUExecutionProvider"]
    )
    (score,) = session.run(["score"], {"hu": hu.reshape(1, *config.input[0].dims)})
    expected = read_golden(bundle, load_manifest(bundle).golden)["score"][1]
    np.testing.assert_allclose(score, [expected], rtol=1e-5)


def test_instances_run_where_the_variant_can(repository: Repository) -> None:
    kinds = {
        path.name: [model_config_pb2.ModelInstanceGroup.Kind.Name(g.kind) for g in groups]
        for path in models(repository)
        for groups in [read_config(path).instance_group]
    }
    assert kinds == {
        "clinreadnet_fp32_onnx": ["KIND_AUTO"],
        "clinreadnet_fp16_onnx": ["KIND_AUTO"],
        "clinreadnet_fp16_tensorrt": ["KIND_GPU"],
    }


def test_graphs_run_without_tf32_on_a_gpu(repository: Repository) -> None:
    (accelerator,) = read_config(
        models(repository)[0]
    ).optimization.execution_accelerators.gpu_execution_accelerator
    assert (accelerator.name, dict(accelerator.parameters)) == ("cuda", {"use_tf32": "0"})


def test_each_gpu_gets_its_own_engine(repository: Repository) -> None:
    config = read_config(models(repository)[2])
    assert dict(config.cc_model_filenames) == {
        "8.9": "clinreadnet.fp16.sm89.engine",
        "12.0": "clinreadnet.fp16.sm120.engine",
    }
    assert config.default_model_filename == ""  # no engine for any other GPU


def test_a_hardware_compatible_engine_serves_other_gpus(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    add_engine(bundle, "a.engine", target="sm80", hardware_compatible=True)
    add_engine(bundle, "b.engine", target="sm90", hardware_compatible=True)
    written = write_repository(bundle, tmp_path / "models")
    assert read_config(models(written)[2]).default_model_filename == "a.engine"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"flavour": "tensorrt-rtx"}, "no TensorRT-RTX engines"),
        ({"weights_stripped": True}, "weights are stripped"),
        ({"graph": None}, "does not name its graph"),
        ({"batch": BatchRange(2, 4, 8)}, "smallest batch is 2"),
    ],
    ids=["rtx", "stripped", "no-graph", "no-single-slice"],
)
def test_what_triton_cannot_load_is_left_out_by_name(
    tmp_path: Path, fields: dict[str, Any], reason: str
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    add_engine(bundle, "odd.engine", **fields)
    written = write_repository(bundle, tmp_path / "models")
    assert list(written.left_out) == ["odd.engine"] and reason in written.left_out["odd.engine"]
    assert not list(written.path.rglob("odd.engine"))


def test_a_graph_for_cpus_alone_is_left_out(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    manifest = load_manifest(bundle)
    exact, half = manifest.artifacts
    dynamic = replace(half, precision="int8-dynamic")
    write_manifest(replace(manifest, artifacts=(exact, dynamic)), bundle)
    written = write_repository(bundle, tmp_path / "models")
    assert written.left_out == {half.file: "its 8-bit products run on a CPU, also beside a GPU"}


def test_a_second_engine_of_one_gpu_is_left_out(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    add_engine(bundle, "a.engine")
    add_engine(bundle, "b.engine")
    assert list(write_repository(bundle, tmp_path / "models").left_out) == ["b.engine"]


def only_rtx(bundle: Path) -> None:
    add_engine(bundle, "a.rtx.engine", flavour="tensorrt-rtx", graph=None)
    manifest = load_manifest(bundle)
    engines = tuple(a for a in manifest.artifacts if a.kind != "onnx")
    write_manifest(replace(manifest, artifacts=engines), bundle)


def change_a_byte(bundle: Path) -> None:
    path = bundle / "clinreadnet.fp16.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def unverify(bundle: Path) -> None:
    write_manifest(replace(load_manifest(bundle), verified=False), bundle)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change_a_byte, "SHA-256 differs"),
        (unverify, "not verified; run `clinreadnet verify"),
        (only_rtx, "nothing that Triton can load .*; make a bundle of ONNX graphs with"),
    ],
    ids=["changed-byte", "unverified", "nothing-to-serve"],
)
def test_a_bundle_that_must_not_be_served_is_refused(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    spoil(bundle)
    with pytest.raises(InputError, match=message):
        write_repository(bundle, tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_force_never_removes_the_models_of_others(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    (out / "liver_segmentation" / "1").mkdir(parents=True)
    with pytest.raises(InputError, match="already exists; give force=True"):
        write_repository(bundle, out)
    with pytest.raises(InputError, match="also holds liver_segmentation"):
        write_repository(bundle, out, force=True)
    assert [path.name for path in out.iterdir()] == ["liver_segmentation"]


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["export-triton-server", *map(str, arguments)])


def test_the_command_lays_out_a_bundle_that_is_there(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    done = run("--out", out, "--bundle", bundle, "--json")
    assert done.exit_code == 0, done.exception
    result = json.loads(done.stdout)
    assert [m["name"] for m in result["models"]][0] == "clinreadnet_fp32_onnx"
    assert list(result["left_out"]) == ["clinreadnet.fp16.sm89.rtx.engine"]
    assert "clinreadnet.fp16.sm89.rtx.engine left out: Triton" in done.stderr
    done = run("--out", out, "--bundle", bundle, "--force")
    assert done.exit_code == 0 and f"--model-repository={out}" in done.stdout


def test_the_command_refuses_what_the_writer_refuses(bundle: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    for arguments, message in (
        (["--out", taken, "--bundle", bundle], "already exists; give --force, or name another"),
        (["--out", tmp_path / "models", "--bundle", tmp_path / "none"], "none: no such bundle"),
    ):
        done = run(*arguments)
        assert isinstance(done.exception, InputError) and message in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_default_bundle_is_laid_out(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINREADNET_BUNDLE", str(bundle))
    done = run("--out", tmp_path / "models", "--json")
    assert done.exit_code == 0, done.exception
    assert json.loads(done.stdout)["bundle"] == str(bundle)
    assert (tmp_path / "models" / "clinreadnet_fp32_onnx" / "config.pbtxt").is_file()


def test_the_real_bundle_is_served(tiny_bundle: Path, tmp_path: Path) -> None:
    """The graphs of the exporter have float32 inputs and outputs in every precision."""
    written = write_repository(tiny_bundle, tmp_path / "models")
    graphs: list[Artifact] = [a for a in load_manifest(tiny_bundle).artifacts if a.kind == "onnx"]
    assert [m.files for m in written.models] == [(a.file,) for a in graphs]
    for path in models(written):
        config = read_config(path)
        assert {t.data_type for t in (*config.input, *config.output)} == {
            model_config_pb2.TYPE_FP32
        }
