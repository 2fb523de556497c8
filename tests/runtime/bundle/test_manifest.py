"""The manifest: round trip, published schema, and broken bundles."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from clinreadnet import limits
from clinreadnet.errors import InputError
from clinreadnet.runtime.bundle.files import digest, load_manifest, read_listed, write_manifest
from clinreadnet.runtime.bundle.format import manifest_json, manifest_schema, parse_manifest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import (
    NOT_RUN,
    Artifact,
    BatchRange,
    BuiltOn,
    Golden,
    InputInfo,
    LayerReport,
    Manifest,
    ModelInfo,
    Parity,
)

SHA = "0" * 64
SCHEMA = json.loads(
    files("clinreadnet.runtime.bundle").joinpath("manifest.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def make_manifest(**changes: Any) -> Manifest:
    graph = Artifact(
        file="clinreadnet.fp32.onnx",
        kind="onnx",
        precision="fp32",
        sha256=SHA,
        size=12,
        batch=BatchRange(1, 4, 32),
        toolchain={"torch": "2.13.0"},
        built_on=BuiltOn("linux-x86_64"),
        parity=Parity(
            "passed",
            budget=1e-5,
            relative_error={"score": 3e-7},
            metric_difference={"PLCC": 1e-9},
            map_difference={"correlation": 1e-8, "rmse_ratio": float("nan")},
            worst_score_difference=1e-6,
            worst_tile_difference=2e-6,
            worst_novelty_difference=3e-7,
            in_domain_flips=0,
            details={"slices": 64, "interval": [0.9, 0.95]},
        ),
    )
    engine = dataclasses.replace(
        graph,
        file="clinreadnet.fp16.sm89.rtx.engine",
        kind="tensorrt-engine",
        precision="fp16",
        flavour="tensorrt-rtx",
        target="sm89",
        graph=graph.file,
        layers=LayerReport("clinreadnet.fp16.sm89.rtx.layers.json", SHA, 2),
        parity=Parity(NOT_RUN, reason="no GPU here"),
    )
    fields: dict[str, Any] = {
        "clinreadnet_version": "0.1.0",
        "created": "2026-01-31T12:00:00Z",
        "model": ModelInfo("small", 6_900_000, SHA, 1.25),
        "input": InputInfo(BatchRange(1, 4, 32)),
        "artifacts": (graph, engine),
        "golden": Golden("golden.npz", SHA, 10, 4),
        "verified": True,
    }
    return Manifest(**(fields | changes))


def set_path(raw: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    node: Any = raw
    for parent in parents:
        node = node[parent]
    if value is KeyError:
        del node[last]
    else:
        node[last] = value


def test_a_written_manifest_reads_back_equal(tmp_path: Path) -> None:
    manifest = make_manifest()
    graph = manifest.artifacts[0]
    assert graph.parity is not None
    parity = dataclasses.replace(graph.parity, map_difference={"correlation": 1e-8})
    graph = dataclasses.replace(graph, parity=parity)
    manifest = dataclasses.replace(manifest, artifacts=(graph, manifest.artifacts[1]))
    write_manifest(manifest, tmp_path)
    assert load_manifest(tmp_path) == manifest
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def test_a_written_manifest_satisfies_the_published_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    VALIDATOR.validate(json.loads(manifest_json(make_manifest())))


def test_the_published_schema_is_written_from_the_types() -> None:
    """`make schema` writes it again."""
    assert SCHEMA == json.loads(json.dumps(manifest_schema()))
    for node in SCHEMA["$defs"].values():
        assert set(node["properties"]) == set(node["required"])
        assert node["additionalProperties"] is False
    names = {field.name for field in dataclasses.fields(Manifest)}
    assert set(SCHEMA["$defs"]["Manifest"]["properties"]) == names


def test_numbers_that_are_not_finite_become_null() -> None:
    parity = Parity("failed", relative_error={"score": float("inf")})
    artifact = dataclasses.replace(make_manifest().artifacts[0], parity=parity)
    text = manifest_json(make_manifest(artifacts=(artifact,), verified=False))
    read = parse_manifest(text).artifacts[0].parity
    assert read is not None and read.relative_error == {"score": None}


NOT_RUN_RECORD = dataclasses.asdict(Parity(NOT_RUN))


class Version(str):
    """A version string like torch's."""


def test_what_derives_from_a_plain_type_is_written_as_it(tmp_path: Path) -> None:
    parity = Parity("failed", worst_score_difference=np.float64(0.5), details={"a": np.float64(2)})
    artifact = dataclasses.replace(
        make_manifest().artifacts[0], parity=parity, toolchain={"torch": Version("2.13.0")}
    )
    text = manifest_json(make_manifest(artifacts=(artifact,), verified=False))
    read = parse_manifest(text).artifacts[0]
    assert read.parity == parity and read.toolchain == {"torch": "2.13.0"}
    with pytest.raises(TypeError, match="a manifest cannot hold ndarray"):
        wrong = dataclasses.replace(parity, details={"a": np.zeros(2)})
        manifest_json(make_manifest(artifacts=(dataclasses.replace(artifact, parity=wrong),)))


LAYERS = {"file": "a.layers.json", "sha256": SHA, "size": 2}

BROKEN = {
    "missing-field": ("verified", KeyError, "Object missing required field `verified`"),
    "missing-nested": ("artifacts.0.sha256", KeyError, "artifacts[0]: Object missing required f"),
    "unknown-field": ("surprise", 1, "surprise is not a field"),
    "unknown-nested": ("artifacts.1.layers.more", 1, "artifacts[1].layers.more is not a field"),
    "string-for-bool": ("verified", "true", "verified: Expected `bool`, got `str`"),
    "bool-for-int": ("artifacts.0.size", True, "artifacts[0].size: Expected `int`, got `bool`"),
    "float-for-int": ("artifacts.0.size", 1.5, "artifacts[0].size: Expected `int`, got `float`"),
    "object-for-list": ("artifacts", {}, "artifacts: Expected `array`, got `object`"),
    "list-for-object": ("golden", [], "golden: Expected `object`, got `array`"),
    "number-for-toolchain": ("artifacts.0.toolchain.torch", 2, "artifacts[0].toolchain[...]: Exp"),
    "no-artifacts": ("artifacts", [], "artifacts: Expected `array` of length >= 1"),
    "unknown-kind": (
        "artifacts.0.kind",
        "pickle",
        "artifacts[0].kind: Invalid enum value 'pickle'",
    ),
    "unknown-precision": (
        "artifacts.0.precision",
        "fp12",
        "precision: 'fp12' is none of",
    ),
    "parent-path": ("artifacts.0.file", "../x.onnx", "not a plain file name"),
    "absolute-path": ("artifacts.0.file", "/etc/passwd", "not a plain file name"),
    "windows-path": (
        "artifacts.0.file",
        "..\\x.onnx",
        "not a plain file name",
    ),
    "line-end": ("artifacts.0.file", "x.onnx\n", "not a plain file name"),
    "sub-folder": ("golden.file", "a/golden.npz", "not a plain file name"),
    "dot-dot": ("golden.file", "..", "not a plain file name"),
    "manifest-itself": ("golden.file", "manifest.json", "not a plain file name"),
    "signature": ("golden.file", "manifest.sig", "not a plain file name"),
    "short-hash": ("artifacts.0.sha256", "abc", "64 lower-case hexadecimal"),
    "hash-and-line-end": ("golden.sha256", SHA + "\n", "64 lower-case hexadecimal"),
    "empty-file": ("artifacts.0.size", 0, "artifacts[0].size: Expected `int` >= 1"),
    "graph-with-target": ("artifacts.0.target", "sm89", "an engine names flavour and target"),
    "engine-without-flavour": ("artifacts.1.flavour", None, "an engine names flavour and target"),
    "layers-outside": (
        "artifacts.1.layers.file",
        "../layers.json",
        "not a plain file name",
    ),
    "layers-of-a-graph": ("artifacts.0.layers", LAYERS, "only an engine names a graph"),
    "zero-batch": ("artifacts.0.batch.min", 0, "artifacts[0].batch.min: Expected `int` >= 1"),
    "other-encoding": ("input.encoding.hu_min", -1024, "input.encoding.hu_min: Expected `float`"),
    "other-side": ("input.shape.2", 256, "input.shape[2]: Invalid enum value 256"),
    "other-outputs": ("outputs.1.shape", ["batch", 5], "outputs differ"),
    "old-schema": ("schema_version", 0, "schema_version: Invalid enum value 0"),
    "no-novelty": ("outputs.3", KeyError, "outputs differ from score, probs, quality_map, novelty"),
    "threshold-missing": (
        "model.novelty_threshold",
        KeyError,
        "model.novelty_threshold is missing",
    ),
    "threshold-zero": (
        "model.novelty_threshold",
        0,
        "model.novelty_threshold: Expected `float` > 0",
    ),
    "threshold-text": ("model.novelty_threshold", "1", "model.novelty_threshold: Expected `float"),
    "flips-float": ("artifacts.0.parity.in_domain_flips", 0.5, "in_domain_flips"),
    "map-missing": ("artifacts.0.parity.map_difference", KeyError, "map_difference is missing"),
    "record-not-run": (
        "artifacts.0.records",
        [NOT_RUN_RECORD],
        "records[0]: must state where it ran",
    ),
}


@pytest.mark.parametrize(("path", "value", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_manifest_is_refused_by_the_reader_and_the_schema(
    path: str, value: Any, message: str
) -> None:
    raw = json.loads(manifest_json(make_manifest()))
    set_path(raw, path, value)
    with pytest.raises(InputError) as refusal:
        parse_manifest(json.dumps(raw), "bundle/manifest.json")
    assert message in str(refusal.value)
    assert str(refusal.value).startswith("bundle/manifest.json: ")
    assert "\n" not in str(refusal.value)
    assert not VALIDATOR.is_valid(raw)


@pytest.mark.parametrize("threshold", ["NaN", "Infinity", "-1.0"])
def test_a_threshold_that_is_no_number_is_refused(threshold: str) -> None:
    text = manifest_json(make_manifest())
    assert text.count('"novelty_threshold": 1.25') == 1
    with pytest.raises(InputError, match="model.novelty_threshold"):
        parse_manifest(text.replace(": 1.25", f": {threshold}"))


def test_which_bundles_judge() -> None:
    assert make_manifest().unjudged is None
    untrained = make_manifest(model=ModelInfo("small", 1, SHA))
    assert "no novelty threshold" in str(untrained.unjudged)


def test_relations_that_a_schema_cannot_say_are_checked() -> None:
    raw = json.loads(manifest_json(make_manifest()))
    twice = copy.deepcopy(raw)
    twice["golden"]["file"] = raw["artifacts"][0]["file"]
    with pytest.raises(InputError, match="listed twice"):
        parse_manifest(json.dumps(twice))
    foreign = copy.deepcopy(raw)
    foreign["artifacts"][1]["graph"] = "other.onnx"
    with pytest.raises(InputError, match="'other.onnx' is not a listed ONNX graph"):
        parse_manifest(json.dumps(foreign))
    raw["artifacts"][0]["batch"] = {"min": 4, "opt": 2, "max": 8}
    with pytest.raises(InputError, match="min <= opt <= max"):
        parse_manifest(json.dumps(raw))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "is not a JSON object"),
        ('{"schema_version": 2}', "schema version 2 is newer .* install a newer"),
    ],
    ids=["cut-off", "nested-too-deep", "list", "newer-schema"],
)
def test_text_that_is_no_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_manifest(tmp_path)


def test_a_missing_bundle_and_a_folder_without_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="clinreadnet export --out"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a bundle"):
        load_manifest(tmp_path)


def test_writing_refuses_what_reading_would_refuse(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="plain file name"):
        write_manifest(make_manifest(golden=Golden("../golden.npz", SHA, 1, 1)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_listed_files_are_checked_against_size_and_hash(tmp_path: Path) -> None:
    content = b"twelve bytes"
    artifact = dataclasses.replace(make_manifest().golden, sha256=digest(content), size=12)
    path = tmp_path / artifact.file
    with pytest.raises(InputError, match="listed in the manifest but missing"):
        read_listed(tmp_path, artifact)
    path.write_bytes(content)
    assert read_listed(tmp_path, artifact) == content
    path.write_bytes(content[:-1])
    with pytest.raises(InputError, match="11 bytes, the manifest says 12"):
        read_listed(tmp_path, artifact)
    path.write_bytes(content.upper())
    with pytest.raises(InputError, match="SHA-256 differs"):
        read_listed(tmp_path, artifact)


def golden_bytes(**changes: Any) -> bytes:
    arrays = {
        "hu": np.zeros((2, 512, 512), np.int16),
        "label": np.zeros(2, np.float32),
        "score": np.zeros(2),
        "probs": np.zeros((2, 21)),
        "quality_map": np.zeros((2, 16, 16)),
        "novelty": np.zeros(2),
    } | changes
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: v for k, v in arrays.items() if v is not None})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a zip", "not a golden file"),
        (golden_bytes(score=None), "not a golden file"),
        (golden_bytes(probs=np.zeros((2, 5))), r"probs has shape \[2, 5\]"),
        (golden_bytes(novelty=None), "not a golden file"),
        (golden_bytes(tile_quality=np.zeros((2, 16, 16))), "not a golden file"),
        (golden_bytes(label=np.array([object(), None])), "label holds no plain numbers"),
        (golden_bytes(label=np.array([1j, 0j])), "label holds no plain numbers"),
        (
            golden_bytes(quality_map=np.asfortranarray(np.zeros((2, 16, 16)))),
            "quality_map holds no plain numbers",
        ),
    ],
    ids=[
        *("not-npz", "array-missing", "wrong-shape", "no-novelty", "half-a-truth"),
        *("pickled-object", "complex", "columns-first"),
    ],
)
def test_a_broken_golden_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "golden.npz").write_bytes(content)
    golden = Golden("golden.npz", digest(content), len(content), 2)
    with pytest.raises(InputError, match=message):
        read_golden(tmp_path, golden)


def test_the_first_golden_slices_are_read(tmp_path: Path) -> None:
    content = golden_bytes()
    (tmp_path / "golden.npz").write_bytes(content)
    golden = Golden("golden.npz", digest(content), len(content), 2)
    arrays = read_golden(tmp_path, golden, first=1)
    assert arrays["hu"].shape == (1, 512, 512) and arrays["hu"].dtype == np.int16
    assert arrays["novelty"].shape == (1,)
    assert "tile_quality" not in arrays


def test_golden_slices_may_carry_their_local_truth(tmp_path: Path) -> None:
    tiles = np.zeros((2, 16, 16), np.float32)
    content = golden_bytes(quality=np.ones(2), tile_quality=tiles + 3, tile_weight=tiles)
    (tmp_path / "golden.npz").write_bytes(content)
    arrays = read_golden(tmp_path, Golden("golden.npz", digest(content), len(content), 2))
    assert arrays["quality"].tolist() == [1, 1] and (arrays["tile_quality"] == 3).all()


def test_a_manifest_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    details = {"note": "x" * limits.MANIFEST}
    graph = dataclasses.replace(
        make_manifest().artifacts[0], parity=Parity("passed", details=details)
    )
    (tmp_path / "manifest.json").write_text("old")
    with pytest.raises(InputError, match="would be larger than"):
        write_manifest(make_manifest(artifacts=(graph,)), tmp_path)
    assert (tmp_path / "manifest.json").read_text() == "old"
