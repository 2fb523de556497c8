"""Plugins in a manifest: read back, checked, and compared with a driver."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from clinreadnet.errors import InputError, Untrusted
from clinreadnet.runtime.bundle.files import digest, read_listed
from clinreadnet.runtime.bundle.format import manifest_json, parse_manifest
from clinreadnet.runtime.bundle.manifest import (
    Artifact,
    BatchRange,
    BuiltOn,
    Golden,
    InputInfo,
    Manifest,
    ModelInfo,
    listed_files,
)
from clinreadnet.runtime.bundle.plugins import PluginNodes, Plugins, PtxFile
from clinreadnet.runtime.verdict import Machine, Validity, verdict

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "clinreadnet/runtime/bundle/manifest.schema.json").read_text()
)
PTX = b".version 8.7\n"
FILE = PtxFile(
    "clinreadnet.fp16.plugins.sm120.mlp_48.ptx", digest(PTX), 13, "mlp_48", "sm120", "8.7"
)
PLUGINS = Plugins(
    triton="3.7.1",
    nodes=(PluginNodes("mlp_48_16384", "mlp", "mlp_48", ("stages.0.0", "stages.0.1")),),
    native={"mlp_96": "takes 49216 bytes of shared memory on sm120, a plugin at most 49152"},
    ptx=(FILE,),
)


def make_manifest(of_engine: Plugins | None = PLUGINS, **changes: Any) -> Manifest:
    plain = Artifact(
        file="clinreadnet.fp16.onnx",
        kind="onnx",
        precision="fp16",
        sha256="0" * 64,
        size=1,
        batch=BatchRange(1, 4, 16),
        toolchain={"torch": "2.13.0", "tensorrt": "11.4.0"},
        built_on=BuiltOn("linux-x86_64", "RTX 5090", "580.65.06"),
    )
    graph = dataclasses.replace(plain, file="clinreadnet.fp16.plugins.onnx", plugins=PLUGINS)
    engine = dataclasses.replace(
        graph,
        file="clinreadnet.fp16.plugins.sm120.engine",
        kind="tensorrt-engine",
        flavour="tensorrt",
        target="sm120",
        graph=graph.file,
        plugins=of_engine,
    )
    fields: dict[str, Any] = {
        "clinreadnet_version": "0.1.0",
        "created": "2026-01-31T12:00:00Z",
        "model": ModelInfo("small", 7_000_000, "0" * 64, 1.25),
        "input": InputInfo(plain.batch),
        "artifacts": (plain, graph, engine),
        "golden": Golden("golden.npz", "0" * 64, 10, 4),
        "verified": False,
    }
    return Manifest(**(fields | changes))


def test_plugins_read_back_equal_and_keep_the_schema() -> None:
    manifest = make_manifest()
    text = manifest_json(manifest)
    assert parse_manifest(text) == manifest
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))
    assert '"needed_at_run_time": false' in text


def test_ptx_files_are_listed_once() -> None:
    assert [entry.file for entry in listed_files(make_manifest())].count(FILE.file) == 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("needed_at_run_time",), True, "plugins.needed_at_run_time: must be false"),
        (("ptx", 0, "file"), "../mlp.ptx", "is not a plain file name"),
        (("ptx", 0, "file"), "clinreadnet.fp16.onnx", "is listed twice"),
        (("ptx", 0, "sha256"), "1", "sha256"),
        (("nodes", 0, "op"), 1, r"plugins.nodes\[0\].op: Expected `str`, got `int`"),
        (("isa",), "8.0", "isa is not a field"),
    ],
    ids=["needed", "path", "twice", "hash", "type", "field"],
)
def test_wrong_fields_are_refused(path: tuple[Any, ...], value: Any, message: str) -> None:
    raw = json.loads(manifest_json(make_manifest(None)))
    node: Any = raw["artifacts"][1]["plugins"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(InputError, match=message):
        parse_manifest(json.dumps(raw))


def test_an_engine_has_kernels_of_its_graph_alone() -> None:
    other = dataclasses.replace(PLUGINS, ptx=(dataclasses.replace(FILE, target="sm90"),))
    with pytest.raises(InputError, match=r"artifacts\[2\].plugins.ptx: not among those"):
        parse_manifest(manifest_json(make_manifest(other)))
    parse_manifest(manifest_json(make_manifest(dataclasses.replace(PLUGINS, ptx=()))))


def test_changed_ptx_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE.file).write_bytes(PTX)
    assert read_listed(tmp_path, FILE) == PTX
    (tmp_path / FILE.file).write_bytes(PTX.replace(b"8.7", b"8.8"))
    with pytest.raises(Untrusted, match="mlp_48.ptx: SHA-256 differs .* export it again"):
        read_listed(tmp_path, FILE)


@pytest.mark.parametrize(
    ("driver", "validity", "reason"),
    [
        ("570.86.10", Validity.SUBOPTIMAL, "built with driver 580.65.06"),
        ("565.57.01", Validity.INVALID, "PTX ISA 8.7 needs NVIDIA driver 570 or later"),
        ("580.65.06", Validity.VALID, ""),
    ],
)
def test_a_driver_that_does_not_know_the_ptx(driver: str, validity: Validity, reason: str) -> None:
    engine = make_manifest().artifacts[2]
    machine = Machine("linux-x86_64", "RTX 5090", "sm120", driver, "11.4.0")
    result = verdict(engine, machine)
    assert result.validity == validity and reason in result.reason
