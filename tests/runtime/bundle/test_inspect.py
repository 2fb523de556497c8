"""`clinreadnet inspect`: content of a bundle, its targets, and the verification of each file."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.tiny_bundle import write_bundle

from clinreadnet.runtime.bundle.default import SHIPPED
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.inspect import inspect_bundle, print_contents
from clinreadnet.runtime.bundle.manifest import LayerReport


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def inspect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clinreadnet.cli", "inspect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def add_engine(bundle: Path, layers: bytes) -> None:
    """Add an engine that was never run, with a report of its layers."""
    manifest = load_manifest(bundle)
    graph = manifest.artifacts[0]
    (bundle / "e.engine").write_bytes(b"engine")
    (bundle / "e.layers.json").write_bytes(layers)
    engine = dataclasses.replace(
        graph,
        file="e.engine",
        kind="tensorrt-engine",
        sha256=digest(b"engine"),
        size=6,
        flavour="tensorrt-rtx",
        target="sm89",
        graph=graph.file,
        layers=LayerReport("e.layers.json", digest(layers), len(layers)),
        toolchain={"tensorrt-rtx": "1.7.1"},
        parity=None,
        records=(),
    )
    write_manifest(dataclasses.replace(manifest, artifacts=(*manifest.artifacts, engine)), bundle)


def test_it_says_what_is_inside_for_whom_and_how_it_was_verified(bundle: Path) -> None:
    add_engine(bundle, b'{"layers": {"CAST": {"HALF": 2, "FLOAT": 1}, "SHAPE": {"INT64": 4}}}')
    inspection = inspect_bundle(bundle)
    graph, engine = inspection.entries[0], inspection.entries[-1]
    assert (graph.kind, graph.verified) == ("ONNX graph", "onnxruntime-cpu")
    assert graph.layers == sum(graph.layer_types.values()) and graph.layer_types["Clip"] == 1
    assert "ONNX Runtime" in graph.runs_on and graph.size == (bundle / graph.file).stat().st_size
    assert engine.runs_on == "TensorRT-RTX 1.7.1 on sm89 GPUs (Ada), test"
    assert (engine.verified, engine.layers) == ("not run yet", 7)
    assert engine.layer_types == {"INT64": 4, "HALF": 2, "FLOAT": 1}
    assert inspection.problems == () and inspection.verified and not inspection.signed


def test_the_command_prints_a_table_or_json(bundle: Path) -> None:
    table = inspect(bundle)
    assert table.returncode == 0 and "clinreadnet.fp32.onnx" in table.stdout
    assert "Research use only" in table.stdout
    document = json.loads(inspect(bundle, "--json").stdout)
    assert document["entries"][0]["runs"][0]["backend"] == "onnxruntime-cpu"
    assert document["research_use"].startswith("Research use only")


@pytest.mark.parametrize("width", [100, 40])
def test_files_and_precisions_are_readable_on_a_narrow_terminal(width: int) -> None:
    printed = io.StringIO()
    contents = inspect_bundle(SHIPPED)
    print_contents(contents, Console(file=printed, width=width))
    table = [line for line in printed.getvalue().splitlines() if line.startswith(("│", "┃"))]
    assert table and max(map(len, table)) <= width
    assert "…" not in "".join(table)
    for entry in contents.entries:
        assert any(entry.file in line and entry.precision in line for line in table)
    assert ("error / budget" in printed.getvalue()) == (width == 100)


@pytest.mark.parametrize("width", [200, 80])
def test_a_failed_run_is_printed_with_its_reason(bundle: Path, width: int) -> None:
    contents = inspect_bundle(bundle)
    first, *rest = contents.entries
    failed = dataclasses.replace(first.runs[0], status="failed", reason="score is off by 0.5")
    first = dataclasses.replace(first, runs=(failed,))
    contents = dataclasses.replace(contents, entries=(first, *rest))
    printed = io.StringIO()
    print_contents(contents, Console(file=printed, width=width))
    line = f"{first.file}, {first.precision}: failed with {failed.backend} on {failed.hardware}: "
    assert f"{line}{failed.reason}\n" in printed.getvalue()


def test_the_bundle_in_the_package_is_the_default(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "clinreadnet.cli", "inspect", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    document = json.loads(done.stdout)
    assert document["bundle"] == str(SHIPPED)
    assert [entry["precision"] for entry in document["entries"]] == ["fp32", "int8"]
    assert all(entry["runs"][0]["backend"] == "native" for entry in document["entries"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "listed in the manifest but missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "SHA-256 differs"),
        (lambda path: path.write_bytes(b"short"), "5 bytes, the manifest says"),
    ],
    ids=["missing", "changed", "cut"],
)
def test_a_file_that_is_not_the_listed_one_is_named(
    bundle: Path, damage: object, message: str
) -> None:
    damage(bundle / "clinreadnet.fp32.onnx")  # type: ignore[operator]
    done = inspect(bundle)
    assert done.returncode == 1 and message in done.stdout
    assert "1 file is not as listed" in done.stderr
    (problem,) = inspect_bundle(bundle).problems
    assert inspect_bundle(bundle).entries[0].problem == problem


@pytest.mark.parametrize("layers", [b"[]", b"{", b'{"layers": {"CAST": 3}}', b"[" * 5000])
def test_a_report_of_layers_that_says_nothing_is_no_error(bundle: Path, layers: bytes) -> None:
    add_engine(bundle, layers)
    assert inspect_bundle(bundle).entries[-1].layers is None


def test_no_bundle_is_one_line(tmp_path: Path) -> None:
    done = inspect(tmp_path)
    assert done.returncode == 2 and "this is not a bundle" in done.stderr
