"""Selection of the tests of this process, and the shared bundle of a tiny network."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.whole import WHOLE

LONGEST = ("scoring/test_archive.py", "training/test_trainer.py", "verify/test_verify.py")
"""They begin first: as the last files they would leave the other processes without work. One makes
the bundle, and the others need none meanwhile."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_configure() -> None:
    # A pytest that a test starts is no worker of this one: pytest-benchmark would not measure.
    os.environ.pop("PYTEST_XDIST_WORKER", None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Triton chooses the interpreter when a kernel's module is imported, so a process runs only one
    # kind of test; tests/kernels/test_interpreter.py starts the other one.
    other = [item for item in items if INTERPRETED != bool(item.get_closest_marker("interpret"))]
    if other:
        items[:] = [item for item in items if item not in other]
        config.hook.pytest_deselected(items=other)

    slow = (item for item in items if item.get_closest_marker("whole"))
    if left_out := set() if WHOLE else {*slow, *beside_the_sample(items)}:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))

    items.sort(key=lambda item: not item.nodeid.partition("::")[0].endswith(LONGEST))
    if any(item.get_closest_marker("gpu") for item in items) and not has_gpu():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


def pytest_collection_finish() -> None:
    # Modules and tests stay until the end: without them, each collection of garbage is short.
    gc.collect()
    gc.freeze()


def beside_the_sample(items: list[pytest.Item]) -> Iterator[pytest.Item]:
    """Yield the cases that `sample(every=n)` leaves out: all but the first of each n of a test."""
    seen: Counter[str] = Counter()
    for item in items:
        if marker := item.get_closest_marker("sample"):
            test = item.nodeid.partition("[")[0]
            if seen[test] % marker.kwargs["every"]:
                yield item
            seen[test] += 1


def has_gpu() -> bool:
    try:
        import torch
    except ModuleNotFoundError:
        return False
    return torch.cuda.is_available()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt this process and its children, even where it is ignored.

    A shell script starts a command in the background with SIGINT ignored, and children inherit it.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# Fixtures import inside their bodies, so that a machine without a package runs the other tests.


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a few operators, which the tests of a module share."""
    from support.tiny_bundle import write_bundle

    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle")


@pytest.fixture(scope="session")
def small_checkpoint() -> Path:
    """Return the shipped checkpoint. In a fresh network, equal constants merge and hide layers."""
    from clinreadnet.model.checkpoint import pretrained_path

    return pretrained_path()


@pytest.fixture(scope="session")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Make a file or folder once for all processes of this run of pytest."""

    def once(name: str, make: Callable[[Path], object]) -> Path:
        if not hasattr(request.config, "workerinput"):
            path = tmp_path_factory.mktemp("shared") / name
            make(path)
            return path
        from filelock import FileLock

        path = tmp_path_factory.getbasetemp().parent / "shared" / name
        path.parent.mkdir(exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                new = path.with_name(f"new-{name}")
                make(new)
                new.rename(path)
        return path

    return once


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Path:
    """Return a trained network of preset `tiny`. Its scores follow the noise in 8 bits too.

    `clinreadnet train --preset tiny --limit-time 8m` on 240 simulated slices (seed 11), from random
    weights whose position biases, temperatures and gates had a deviation of 0.5: without them, a
    defect of the attention would hardly show. Its novelty was fitted on `disc` of eight noises.
    """
    return Path(__file__).with_name("support") / "tiny.safetensors"


@pytest.fixture(scope="session")
def simulated_once(shared: Callable[[str, Callable[[Path], object]], Path]) -> Iterator[None]:
    """Use the slices of one anatomy for every export, because simulating takes long."""
    from clinreadnet.export import golden

    simulate = golden.simulate_anatomy

    @functools.cache
    def once(seed: int, anatomy: int) -> Any:
        path = shared(
            f"anatomy-{seed}-{anatomy}",
            lambda new: new.write_bytes(pickle.dumps(simulate(seed, anatomy))),
        )
        return pickle.loads(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden, "GOLDEN_ANATOMIES", 1)
        patch.setattr(golden, "simulate_anatomy", once)
        yield


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_checkpoint: Path,
    simulated_once: None,
    shared: Callable[[str, Callable[[Path], object]], Path],
) -> Path:
    """Return a bundle with both graphs, and one engine if it can be built. Do not change it.

    The export verifies a few golden slices; tests/verify/test_verify.py verifies all of them.
    """
    from support.export_models import RTX_MISSING
    from typer.testing import CliRunner

    from clinreadnet.cli import app

    engines = ["--target", "sm89"] if RTX_MISSING is None else ["--no-engines"]
    given = ["--checkpoint", str(tiny_checkpoint), "--preset", "tiny", *engines]

    def export(out: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            verify_few(patch)
            result = CliRunner().invoke(app, ["export", "--out", str(out), *given])
        assert result.exit_code == 0, f"{result.output} {result.exception!r}"

    return shared("bundle", export)


@pytest.fixture
def quick(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the graphs and the golden slices of the finished bundle instead of making them."""
    from clinreadnet.export import bundle as bundles
    from clinreadnet.export.onnx import export, graphs
    from clinreadnet.runtime.bundle.files import load_manifest
    from clinreadnet.runtime.bundle.manifest import Golden

    def copy_graph(
        model: object, path: Path, *, precision: str, fused_attention: bool = False
    ) -> None:
        shutil.copy(tiny_bundle / path.name, path)

    def copy_golden(path: Path, *rest: object) -> Golden:
        shutil.copy(tiny_bundle / path.name, path)
        return load_manifest(tiny_bundle).golden

    for module in (export, graphs):
        monkeypatch.setattr(module, "export_onnx", copy_graph)
    monkeypatch.setattr(bundles, "write_golden", copy_golden)


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Return a copy of the bundle that a test may change."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count results as on a machine without OpenVINO, which would add its own."""
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.fixture
def few_golden(without_openvino: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify four golden slices in small batches, where a test is not about what they show."""
    verify_few(monkeypatch)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify on ONNX Runtime and the CPU engine, in batches of up to four.

    The export of `tiny_bundle` runs OpenVINO on a few slices; `make test-all` runs everything.
    """
    if not WHOLE:
        monkeypatch.setitem(sys.modules, "openvino", None)
        verify_batches(monkeypatch, 4)


def verify_batches(patch: pytest.MonkeyPatch, largest: int) -> None:
    from clinreadnet.verify import backends, graph

    for module in (backends, graph):
        patch.setattr(module, "CPU_BATCH", largest)


def verify_few(patch: pytest.MonkeyPatch) -> None:
    from clinreadnet.runtime.bundle.golden import read_golden
    from clinreadnet.verify import run

    def first(*args: Any) -> dict[str, Any]:
        return {name: values[:4] for name, values in read_golden(*args).items()}

    patch.setattr(run, "read_golden", first)
    verify_batches(patch, 2)


@pytest.fixture(scope="session")
def graph(
    tiny_bundle: Path,
    small_checkpoint: Path,
    shared: Callable[[str, Callable[[Path], object]], Path],
) -> Callable[[str, str], Path]:
    """Make the graph of a preset and precision; each is exported once for all processes."""
    from clinreadnet.export.onnx.export import export_onnx
    from clinreadnet.model.checkpoint import load_checkpoint

    @functools.cache
    def make(preset: str, precision: str) -> Path:
        if preset == "tiny":
            return tiny_bundle / f"clinreadnet.{precision}.onnx"
        return shared(
            f"clinreadnet.{precision}.onnx",
            lambda path: export_onnx(load_checkpoint(small_checkpoint), path, precision=precision),
        )

    return make
