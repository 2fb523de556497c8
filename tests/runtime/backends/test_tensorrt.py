"""The TensorRT backend on a fake binding and a fake GPU: memory, graphs, faults."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import fake_pycuda, fake_tensorrt
from support.bodies import some_hu
from support.dicom_files import bright, noise
from support.fake_machine import Machine, start
from support.fake_pycuda import DriverLibrary
from support.fake_tensorrt import Engine, EngineValidity
from support.tiny_bundle import reference

from clinreadnet.errors import (
    BackendError,
    BackendUnavailable,
    CheckFailed,
    DeviceLost,
    OutOfMemory,
    PartialResult,
    Untrusted,
)
from clinreadnet.runtime import Session, verdict
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import BatchRange, BuiltOn
from clinreadnet.runtime.verdict import Validity
from clinreadnet.spec import OUTPUTS


@pytest.fixture(params=["tensorrt-11", "tensorrt-rtx"])
def machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Machine:
    return start(monkeypatch, request.param, tmp_path)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return start(monkeypatch, "tensorrt-10", tmp_path)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return start(monkeypatch, "tensorrt-rtx", tmp_path)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("n", [1, 4, 9])
def test_scores_are_the_references(machine: Machine, n: int, half: bool) -> None:
    with machine.session(Engine(half=half)) as session:
        assert (session.backend, session.batch) == (machine.flavour, 4)
        scores = session.score(some_hu(n))
    for name, value in reference(some_hu(n)).items():
        assert getattr(scores, name).dtype == np.float32
        np.testing.assert_allclose(getattr(scores, name), value, rtol=5e-3 if half else 1e-5)


def test_novelty_has_its_buffers_and_is_judged(machine: Machine) -> None:
    hu = np.stack([bright(i) if i == 2 else noise(i) for i in range(5)])
    with machine.session() as session:
        scores = session.score(hu, regions=False)
    with machine.backend() as backend:
        (lane,) = backend.lanes
        assert set(lane.host) == set(lane.device) == {"hu", *OUTPUTS}
    assert scores.in_domain is not None
    assert scores.in_domain.tolist() == [True, True, False, True, True]


def test_an_engine_without_novelty_is_refused_where_the_manifest_has_it(machine: Machine) -> None:
    with pytest.raises(BackendUnavailable, match="not a ClinReadNet engine"):
        machine.session(Engine(novel=False))


def test_results_are_not_views_of_buffers_that_the_next_run_overwrites(machine: Machine) -> None:
    with machine.session() as session:
        first = session.score(some_hu(1))
        kept = first.score.copy()
        session.score(some_hu(2))
        np.testing.assert_array_equal(first.score, kept)


def test_nothing_is_allocated_after_warm_up_and_all_is_freed_at_the_end(machine: Machine) -> None:
    session = machine.session(workers=2, batch=3)
    for n in (1, 2, 3):  # each size, on each worker
        for _ in range(2):
            session.score(some_hu(n))
    warm = machine.gpu.allocations, machine.gpu.live(), len(machine.fake.contexts)
    for n in (3, 1, 8, 2, 7):
        session.score(some_hu(n))
    assert (machine.gpu.allocations, machine.gpu.live(), len(machine.fake.contexts)) == warm
    assert machine.gpu.stack == []
    session.close()
    assert set(machine.gpu.live().values()) == {0} and machine.gpu.stack == []


def test_a_session_that_was_not_closed_is_freed_with_its_object(machine: Machine) -> None:
    session = machine.session()
    session.score(some_hu(1))
    del session
    gc.collect()
    assert set(machine.gpu.live().values()) == {0}


def test_a_context_that_was_current_is_current_again(machine: Machine) -> None:
    """torch leaves its context current on the thread."""
    torch_context = object()
    machine.gpu.stack.append(torch_context)
    with machine.session() as session:
        assert machine.gpu.stack == [torch_context]
        session.score(some_hu(1))
        assert machine.gpu.stack == [torch_context]
    assert machine.gpu.stack == [torch_context]


def test_full_tensorrt_launches_one_graph_a_batch_size(full: Machine) -> None:
    with full.session(batch=3) as session:
        launched = full.gpu.launches
        session.score(some_hu(3))
        session.score(some_hu(3))
        assert full.gpu.launches == launched + 2
        session.score(some_hu(5))
        assert full.gpu.launches == launched + 4
        assert {context.n for context in full.fake.contexts} == {1, 2, 3}
        assert full.gpu.live()["graphs"] == 3


def test_a_profiler_is_shown_the_stages_of_a_run(machine: Machine, shown: list[str]) -> None:
    with machine.session() as session:
        shown.clear()
        session.score(some_hu(1))
    steps = ["fill the page-locked buffer", "launch", "wait for the GPU"]
    inner = [line for step in steps for line in (f"+ {step}", f"- {step}")]
    looked = ["+ look at 1 slices", "- look at 1 slices"]
    assert shown == ["+ run 1 slices", *inner, "- run 1 slices", *looked]


def test_rtx_captures_its_graphs_itself_and_specialises_at_once(
    rtx: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[Any] = []
    real = fake_tensorrt.RuntimeConfig.set_execution_context_allocation_strategy

    def remember(config: Any, strategy: Any) -> None:
        configs.append(config)
        real(config, strategy)

    monkeypatch.setattr(
        fake_tensorrt.RuntimeConfig, "set_execution_context_allocation_strategy", remember
    )
    with rtx.session() as session:
        session.score(some_hu(4))
    assert rtx.gpu.launches == 0
    eager = fake_tensorrt.DynamicShapesKernelSpecializationStrategy.EAGER
    assert configs
    for config in configs:
        assert config.cuda_graph_strategy is fake_tensorrt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        assert config.dynamic_shapes_kernel_specialization_strategy is eager


def test_sixteen_threads_get_the_bits_that_one_gets(machine: Machine) -> None:
    inputs = [some_hu(n % 5 + 1) for n in range(16)]
    with machine.session(workers=3) as session:
        expected = [session.score(hu) for hu in inputs]
        with ThreadPoolExecutor(16) as pool:
            actual = list(pool.map(session.score, inputs))
    for a, b in zip(expected, actual, strict=True):
        for name in OUTPUTS:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_run_that_fails_in_mid_series_leaves_the_others(rtx: Machine) -> None:
    with rtx.session(batch=2) as session:
        real = fake_tensorrt.ExecutionContext.execute_async_v3
        calls = 0

        def fail_the_second(context: Any, handle: int) -> bool:
            nonlocal calls
            calls += 1
            if calls == 2:
                rtx.gpu.fail_next = RuntimeError("cask convolution failed")
            return real(context, handle)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fake_tensorrt.ExecutionContext, "execute_async_v3", fail_the_second)
            with pytest.raises(PartialResult, match="2 of 5 .* hu.2.: .*cask conv") as failure:
                session.score(some_hu(5))
        assert failure.value.failed == [2, 3] and failure.value.done == [0, 1, 4]
        expected = reference(some_hu(5))["score"][[0, 1, 4]]
        np.testing.assert_allclose(failure.value.scores.score, expected, rtol=1e-5)
        assert isinstance(failure.value.__cause__, BackendError)
        np.testing.assert_allclose(
            session.score(some_hu(5)).score, reference(some_hu(5))["score"], rtol=1e-5
        )


def test_a_lost_device_is_reported_at_every_later_call(machine: Machine) -> None:
    session = machine.session()
    session.score(some_hu(1))
    machine.gpu.lost = True
    for _ in range(2):
        with pytest.raises(DeviceLost, match="start it again"):
            session.score(some_hu(6))
    assert machine.gpu.stack == []
    session.close()


def test_a_device_lost_in_mid_series_keeps_what_was_scored(machine: Machine) -> None:
    session = machine.session(batch=2)
    real = fake_tensorrt.reference
    batches = 0

    def lose(hu: Any) -> Any:
        nonlocal batches
        batches += 1
        machine.gpu.lost = batches == 2
        return real(hu)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_tensorrt, "reference", lose)
        with pytest.raises(PartialResult) as failure:
            session.score(some_hu(7))
    assert (failure.value.done, failure.value.failed) == ([0, 1], [2, 3, 4, 5, 6])
    assert isinstance(failure.value.__cause__, DeviceLost) and batches == 2
    session.close()


def test_little_memory_means_a_smaller_batch_then_a_refusal(machine: Machine) -> None:
    slice_bytes = 512 * 512 * 4
    engine = Engine(batch=(2, 8, 8))
    machine.gpu.capacity = 5 * slice_bytes
    with machine.session(engine) as session:
        assert session.batch == 4
        np.testing.assert_allclose(
            session.score(some_hu(9)).score, reference(some_hu(9))["score"], rtol=1e-5
        )
    assert machine.gpu.live()["memory"] == 0
    machine.gpu.capacity = slice_bytes
    with pytest.raises(BackendUnavailable, match="not even a batch of 2 fits .*out of memory"):
        machine.session(engine)
    fallen = Session(machine.bundle(engine), (machine.flavour, "onnxruntime-cpu"))
    assert fallen.backend == "onnxruntime-cpu" and "not even" in fallen.refused[machine.flavour]
    assert machine.gpu.live()["memory"] == 0


def test_memory_that_runs_out_later_means_a_smaller_batch_too(machine: Machine) -> None:
    with machine.session() as session:
        machine.gpu.fail_next = RuntimeError("Error Code 2: OutOfMemory (no details)")
        scores = session.score(some_hu(3))  # a size that is new
        assert session.batch == 1
    np.testing.assert_allclose(scores.score, reference(some_hu(3))["score"], rtol=1e-5)


def test_memory_too_small_for_the_smallest_batch_is_an_error(rtx: Machine) -> None:
    def full(context: Any, handle: int) -> bool:
        context.engine.logger.log(fake_tensorrt.ILogger.ERROR, "Cuda Runtime (out of memory)")
        return False

    with rtx.session(Engine(batch=(2, 4, 8))) as session:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fake_tensorrt.ExecutionContext, "execute_async_v3", full)
            with pytest.raises(OutOfMemory, match="tensorrt-rtx fails .Cuda Runtime .out of mem"):
                session.score(some_hu(8))
        assert session.batch == 2
        assert len(session.score(some_hu(4))) == 4


def test_the_self_test_is_held_to_the_budget(machine: Machine) -> None:
    bundle = machine.bundle(Engine(offset=0.1))
    with pytest.raises(CheckFailed, match=f"self-test failed on {machine.flavour}, score is off"):
        Session(bundle, machine.flavour)
    session = Session(bundle)
    assert session.backend == "onnxruntime-cpu"
    assert "self-test failed" in session.refused[machine.flavour]
    assert machine.gpu.live()["memory"] == 0


def test_an_engine_that_was_tampered_with_is_not_deserialised(machine: Machine) -> None:
    bundle = machine.bundle()
    path = bundle / "clinreadnet.fp16.engine"
    path.write_bytes(path.read_bytes().replace(b"4096", b"4097"))
    with pytest.raises(Untrusted, match="SHA-256 differs"):
        Session(bundle)
    assert machine.fake.deserialised == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "sm80"}, "built for sm80, this GPU is sm89"),
        ({"toolchain": dict.fromkeys(("tensorrt", "tensorrt-rtx"), "1.6.0")}, "built with .*1.6.0"),
    ],
    ids=["architecture", "version"],
)  # fmt: skip
def test_an_engine_that_does_not_fit_is_not_deserialised(
    machine: Machine, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BackendUnavailable, match=message):
        Session(machine.bundle(**changes), machine.flavour)
    with pytest.raises(BackendUnavailable, match="batch 9 is outside the profile"):
        machine.session(batch=9)
    assert machine.fake.deserialised == [] and machine.gpu.allocations == 0


def test_only_full_tensorrt_engines_belong_to_an_operating_system(machine: Machine) -> None:
    bundle = machine.bundle(built_on=BuiltOn("windows-x86_64"))
    if machine.flavour == "tensorrt-rtx":
        with Session(bundle, machine.flavour) as session:
            assert session.verdict.validity == Validity.VALID
    else:
        with pytest.raises(BackendUnavailable, match="built for windows-x86_64"):
            Session(bundle, machine.flavour)
        assert machine.fake.deserialised == []


def test_rtx_is_asked_about_the_header_before_it_is_given_the_engine(rtx: Machine) -> None:
    rtx.fake.judgement = (EngineValidity.INVALID, 2 | 4)
    with pytest.raises(BackendUnavailable, match="TensorRT-RTX: unsupported cc, old cuda driver"):
        rtx.session()
    assert rtx.fake.deserialised == []
    rtx.fake.judgement = (EngineValidity.SUBOPTIMAL, 0)
    with rtx.session() as session:
        assert session.verdict.validity == Validity.SUBOPTIMAL
        assert session.describe()["verdict_reason"] == "TensorRT-RTX: no reason given"


def test_an_engine_that_the_library_refuses_names_its_reason(machine: Machine) -> None:
    bundle = machine.bundle()
    manifest = load_manifest(bundle)
    content = b"not an engine"
    entry = dataclasses.replace(manifest.artifacts[-1], sha256=digest(content), size=len(content))
    (bundle / entry.file).write_bytes(content)
    write_manifest(
        dataclasses.replace(manifest, artifacts=(*manifest.artifacts[:-1], entry)), bundle
    )
    with pytest.raises(BackendUnavailable, match="does not load it .*magic tag does not") as error:
        Session(bundle, machine.flavour)
    assert "\n" not in str(error.value)
    with pytest.raises(BackendUnavailable, match=r"built for batches \[1, 2, 3\], the manifest"):
        Session(machine.bundle(Engine(batch=(1, 2, 3)), batch=BatchRange(1, 4, 8)), machine.flavour)


def test_host_code_is_allowed_to_version_compatible_engines_alone(
    full: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[bool] = []
    real = fake_tensorrt.Runtime.deserialize_cuda_engine

    def remember(runtime: Any, content: bytes) -> Any:
        allowed.append(runtime.engine_host_code_allowed)
        return real(runtime, content)

    monkeypatch.setattr(fake_tensorrt.Runtime, "deserialize_cuda_engine", remember)
    Session(full.bundle(), "tensorrt").close()
    Session(full.bundle(version_compatible=True), "tensorrt").close()
    assert allowed == [False, True]


def test_the_lean_runtime_runs_version_compatible_engines_alone(
    full: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_lean", sys.modules["tensorrt"])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with Session(full.bundle(version_compatible=True), "tensorrt") as session:
        assert session.backend == "tensorrt"
    with pytest.raises(BackendUnavailable, match="only the lean runtime is installed"):
        Session(full.bundle(), "tensorrt")


def test_a_stripped_engine_gets_its_weights_from_the_graph(full: Machine) -> None:
    from support.tiny_bundle import make_graph

    graph = make_graph().decode("latin-1")
    engine = Engine(weights=graph)
    changes = {"weights_stripped": True, "graph": "clinreadnet.fp32.onnx"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fake_tensorrt.OnnxParserRefitter, "refit_from_bytes",
            lambda parser, content: content == make_graph(),
        )  # fmt: skip
        with Session(full.bundle(engine, **changes), "tensorrt") as session:
            assert session.score(some_hu(1)).score.shape == (1,)
        changes["graph"] = "clinreadnet.fp16.onnx"
        with pytest.raises(BackendUnavailable, match="does not take its weights"):
            Session(full.bundle(engine, **changes), "tensorrt")


def test_missing_packages_and_a_driver_that_does_not_start_are_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = machine.bundle()
    driver = sys.modules["pycuda.driver"]

    def fail() -> None:
        raise driver.Error("cuInit failed: no device\nmore")

    monkeypatch.setattr(driver, "init", fail)
    with pytest.raises(BackendUnavailable, match="CUDA does not start here .cuInit failed: no dev"):
        Session(bundle, machine.flavour)
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(BackendUnavailable, match="pip install pycuda"):
        Session(bundle, machine.flavour)
    monkeypatch.setitem(sys.modules, machine.flavour.replace("-", "_"), None)
    with pytest.raises(BackendUnavailable, match=r"pip install .clinreadnet\[tensorrt"):
        Session(bundle, machine.flavour)


LINKED_WITHOUT_THE_DRIVER = """
import ctypes, os, pathlib
try:
    driver = ctypes.CDLL(str(pathlib.Path(__file__).with_name("_driver.so")), os.RTLD_NOW)
except OSError as error:
    raise ImportError(str(error)) from None
"""


def test_a_pycuda_that_was_linked_without_the_driver_sees_its_symbols(tmp_path: Path) -> None:
    """Where a wheel was built without a driver, the linker leaves the library out."""
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
    if compiler is None:
        pytest.skip("needs a C compiler")
    package = tmp_path / "pycuda"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "driver.py").write_text(LINKED_WITHOUT_THE_DRIVER)
    for name, code in (
        ("libcuda.so.1", "int cuInit(unsigned flags) { return 7; }"),
        ("pycuda/_driver.so", "int cuInit(unsigned); int start(void) { return cuInit(0); }"),
    ):
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(tmp_path / name)]
        subprocess.run(command, input=code, text=True, check=True)
    code = (
        "from clinreadnet.runtime import gpu\n"
        f"gpu.DRIVER_LIBRARY = {str(tmp_path / 'libcuda.so.1')!r}\n"
        "from clinreadnet.runtime.backends.tensorrt import import_pycuda\n"
        "print(import_pycuda().driver.start())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert ran.stdout == "7\n", ran.stderr


def test_the_fake_has_no_name_that_the_real_binding_lacks() -> None:
    real = pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed", exc_type=ImportError
    )
    twins = {
        fake_tensorrt.Runtime: real.Runtime,
        fake_tensorrt.CudaEngine: real.ICudaEngine,
        fake_tensorrt.ExecutionContext: real.IExecutionContext,
        fake_tensorrt.RuntimeConfig: real.IRuntimeConfig,
        fake_tensorrt.RuntimeCache: real.IRuntimeCache,
        fake_tensorrt.Refitter: real.Refitter,
        fake_tensorrt.OnnxParserRefitter: real.OnnxParserRefitter,
        fake_tensorrt.EngineValidity: real.EngineValidity,
        fake_tensorrt.EngineInvalidityDiagnostics: real.EngineInvalidityDiagnostics,
        fake_tensorrt.CudaGraphStrategy: real.CudaGraphStrategy,
        fake_tensorrt.TensorRTAllocation: real.ExecutionContextAllocationStrategy,
        fake_tensorrt.DynamicShapesKernelSpecializationStrategy: (
            real.DynamicShapesKernelSpecializationStrategy
        ),
    }
    for fake, theirs in twins.items():
        members = getattr(fake, "__members__", None)
        names = members or [n for n, _ in inspect.getmembers(fake) if not n.startswith("_")]
        assert [name for name in names if not hasattr(theirs, name)] == [], fake
    for name in ("num_io_tensors", "create_runtime_config"):
        assert hasattr(real.ICudaEngine, name)
    for name in ("engine_header_size", "get_engine_validity", "engine_host_code_allowed"):
        assert hasattr(real.Runtime, name)
    for name in ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"):
        assert hasattr(real.IRuntimeConfig, name)


def test_the_real_library_judges_a_header(rtx: Machine) -> None:
    """Without a GPU and a driver the verdict is INVALID."""
    real = pytest.importorskip(
        "tensorrt_rtx_bindings.tensorrt_rtx",
        reason="TensorRT-RTX is not installed",
        exc_type=ImportError,
    )
    from collections import deque

    from clinreadnet.runtime.backends.flavours import collecting_logger

    runtime = real.Runtime(collecting_logger(real, deque(maxlen=1)))
    judged = verdict.header_verdict(real, runtime, b"\0" * 1000)
    assert judged.validity == Validity.INVALID and "malformed engine" in judged.reason


def test_a_failed_capture_falls_back_to_plain_work_and_says_so(full: Machine) -> None:
    full.gpu.refuse_capture = fake_pycuda.CAPTURE_UNSUPPORTED
    with full.session(batch=3) as session:
        launches = full.gpu.launches
        scores = session.score(some_hu(3))
        assert full.gpu.launches == launches == 0
        notes = session.describe()["backend_notes"]
    np.testing.assert_allclose(scores.score, reference(some_hu(3))["score"], rtol=1e-5)
    assert "batch 3 runs without a CUDA graph (cuStreamBeginCapture_v2 failed" in notes[0]
    assert set(full.gpu.live().values()) == {0}


def test_a_device_lost_in_a_capture_is_lost(full: Machine) -> None:
    full.gpu.refuse_capture = 719
    with pytest.raises(BackendError, match="CUDA error 719"):
        full.session()


def during_captures(monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
    """Call ``do`` while a stream captures, as another thread may."""
    real = DriverLibrary.cuStreamBeginCapture_v2

    def begin(library: DriverLibrary, stream: Any, mode: Any) -> int:
        code = real(library, stream, mode)
        do()
        return code

    monkeypatch.setattr(DriverLibrary, "cuStreamBeginCapture_v2", begin)


def test_captures_survive_work_on_the_default_stream(
    full: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_captures(monkeypatch, full.gpu.use_default_stream)
    with full.session(batch=2) as session:
        assert session.describe()["backend_notes"] == []
        assert full.gpu.live()["graphs"] == 2


def test_the_fake_breaks_captures_of_blocking_streams(
    full: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A naive backend uses a blocking stream."""
    blocking = fake_pycuda.Stream
    monkeypatch.setattr(sys.modules["pycuda.driver"], "Stream", lambda flags: blocking(full.gpu))
    during_captures(monkeypatch, full.gpu.use_default_stream)
    with full.session(batch=2) as session:
        assert "CUDA error 901" in session.describe()["backend_notes"][0]


def test_an_error_beside_another_lanes_capture_is_no_lost_device(full: Machine) -> None:
    with full.backend(workers=2, batch=3) as backend:
        other = backend.lanes[1]  # the first lane runs the first batch
        other.stream.captured = []  # it is capturing
        full.gpu.fail_next = RuntimeError("one run fails")
        with pytest.raises(BackendError, match="one run fails") as failure:
            backend.run(some_hu(2)[:, None])  # a size that is new
        assert not isinstance(failure.value, DeviceLost)
        other.stream.captured = None
        for _ in backend.lanes:
            assert len(backend.run(some_hu(2)[:, None])["score"]) == 2


def test_many_sessions_capture_one_after_another(
    full: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake refuses a second capture at the same time."""
    during_captures(monkeypatch, lambda: time.sleep(0.05))
    bundle = full.bundle()
    with ThreadPoolExecutor(4) as pool:
        sessions = list(pool.map(lambda n: Session(bundle, full.flavour, batch=n), (1, 2, 3, 4)))
    for session in sessions:
        assert session.describe()["backend_notes"] == []
        session.close()


def test_a_context_that_cannot_be_made_current_is_a_lost_device(machine: Machine) -> None:
    session = machine.session()
    machine.gpu.lost = True
    with pytest.raises(DeviceLost):
        session.score(some_hu(1))
    assert machine.gpu.stack == []
    machine.gpu.lost = False
    session.close()


LAUNCH_ERROR = fake_pycuda.LaunchError("an illegal memory access was encountered")


def causes(error: BaseException) -> list[str]:
    """Return the messages of an error and of its causes, the first cause last."""
    return [str(error), *(causes(error.__cause__) if error.__cause__ else [])]


@pytest.mark.parametrize("call", ["push", "pop", "synchronize"])
def test_an_earlier_error_is_a_lost_device(machine: Machine, call: str) -> None:
    session = machine.session()
    machine.gpu.failing[call] = LAUNCH_ERROR
    with pytest.raises(DeviceLost, match="start it again") as failure:
        session.score(some_hu(4))
    assert causes(failure.value)[-1] == str(LAUNCH_ERROR)
    del machine.gpu.failing[call]
    with pytest.raises(DeviceLost):
        session.score(some_hu(4))
    session.close()
    # pycuda would end the process with a thread on whose stack it left a context.
    assert machine.gpu.pushed == []


@pytest.mark.parametrize("first", ["cask convolution failed", "Error Code 2: OutOfMemory"])
def test_pop_does_not_mask_the_first_error(machine: Machine, first: str) -> None:
    session = machine.session()
    machine.gpu.fail_next = RuntimeError(first)
    machine.gpu.failing["pop"] = LAUNCH_ERROR
    with pytest.raises(DeviceLost) as failure:
        session.score(some_hu(3))  # a size that is new
    assert first in causes(failure.value)[-1]
    session.close()
    assert machine.gpu.pushed == []


def test_an_interrupt_is_not_masked_by_pop(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(context: Any, handle: int) -> bool:
        raise KeyboardInterrupt

    session = machine.session()
    monkeypatch.setattr(fake_tensorrt.ExecutionContext, "execute_async_v3", interrupt)
    machine.gpu.failing["pop"] = LAUNCH_ERROR
    with pytest.raises(KeyboardInterrupt):
        session.score(some_hu(3))
    session.close()


@pytest.mark.parametrize("call", ["push", "pop", "synchronize", "free", "free host", "detach"])
@pytest.mark.parametrize("lost", [False, True], ids=["alive", "lost"])
def test_close_raises_nothing(machine: Machine, call: str, lost: bool) -> None:
    session = machine.session(workers=2)
    session.score(some_hu(2))
    machine.gpu.lost, machine.gpu.failing[call] = lost, LAUNCH_ERROR
    session.close()
    assert machine.gpu.pushed == []


@pytest.mark.parametrize(("call", "kind"), [("free", "memory"), ("free host", "pinned")])
def test_memory_that_is_not_freed_does_not_keep_the_rest(
    machine: Machine, call: str, kind: str
) -> None:
    session = machine.session(workers=2)
    held = machine.gpu.live()[kind]
    machine.gpu.failing[call] = LAUNCH_ERROR
    session.close()
    assert machine.gpu.live() == {"memory": 0, "pinned": 0, "graphs": 0, "streams": 0, kind: held}


@pytest.mark.parametrize("call", ["pop", "free", "free host", "detach"])
def test_a_failed_load_keeps_its_own_error(machine: Machine, call: str) -> None:
    machine.gpu.failing[call] = LAUNCH_ERROR
    machine.gpu.fail_next = RuntimeError("no tactic")
    with pytest.raises(BackendError) as failure:
        machine.session()
    assert any("no tactic" in cause for cause in causes(failure.value))
    assert machine.gpu.pushed == []


def test_an_exception_of_the_binding_is_a_backend_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pybind11 raises C++ exceptions as RuntimeError."""

    def fail(context: Any, handle: int) -> bool:
        raise RuntimeError("std::exception\nmore")

    with machine.session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(fake_tensorrt.ExecutionContext, "execute_async_v3", fail)
            with pytest.raises(BackendError, match=r"failed .std::exception.$"):
                session.score(some_hu(3))
        assert len(session.score(some_hu(3))) == 3


@pytest.mark.parametrize("where", ["closed elsewhere", "made elsewhere"])
def test_the_primary_context_is_released_on_any_thread(machine: Machine, where: str) -> None:
    torch_context = object()
    machine.gpu.stack.append(torch_context)
    with ThreadPoolExecutor(1) as pool:
        if where == "made elsewhere":
            session = pool.submit(machine.session).result()
            session.close()
        else:
            session = machine.session()
            pool.submit(session.close).result()
        assert machine.gpu.retained == 0
        for stack in (lambda: machine.gpu.stack, lambda: machine.gpu.pushed):
            assert pool.submit(stack).result() == []
    assert machine.gpu.stack == [torch_context] and machine.gpu.pushed == []
    assert set(machine.gpu.live().values()) == {0}


def test_no_slice_of_a_series_waits_for_a_compilation(rtx: Machine) -> None:
    with rtx.session(Engine(batch=(1, 4, 8)), batch=6, workers=2) as session:
        prepared = len(rtx.fake.contexts), rtx.gpu.allocations
        assert sorted({context.n for context in rtx.fake.contexts}) == [1, 4, 6]
        for n in (1, 2, 3, 5, 6, 7, 11):
            scores = session.score(some_hu(n))
            np.testing.assert_allclose(scores.score, reference(some_hu(n))["score"], rtol=1e-5)
        assert (len(rtx.fake.contexts), rtx.gpu.allocations) == prepared


def test_batches_below_the_profile_are_filled(rtx: Machine) -> None:
    engine = Engine(batch=(2, 4, 8))
    with rtx.backend(engine) as backend, rtx.session(engine) as session:
        assert len(backend.run(some_hu(3)[:, None])["score"]) == 3
        assert len(session.score(some_hu(1))) == 1
        assert {context.n for context in rtx.fake.contexts} == {2, 4}


def kernel_files(machine: Machine) -> list[Path]:
    folder = machine.folder.with_name(f"{machine.folder.name}-cache")
    return list(folder.iterdir()) if folder.exists() else []


def test_compiled_kernels_are_kept_for_the_next_session(rtx: Machine) -> None:
    bundle = rtx.bundle()
    Session(bundle, "tensorrt-rtx").close()
    assert rtx.fake.compiled == [4, 1]
    (file,) = kernel_files(rtx)
    written = file.stat()
    assert written.st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    with Session(bundle, "tensorrt-rtx") as session:
        assert session.describe()["backend_notes"] == []
    assert rtx.fake.compiled == [4, 1]
    assert file.stat().st_mtime_ns == written.st_mtime_ns
    Session(bundle, "tensorrt-rtx", batch=6).close()
    assert rtx.fake.compiled == [4, 1, 6]
    assert b"[1, 4, 6]" in file.read_bytes()


def test_kernels_belong_to_engine_gpu_driver_and_release(
    rtx: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx.session().close()
    rtx.session(Engine(offset=1e-7)).close()
    monkeypatch.setattr(verdict, "driver_version", lambda: "600.1")
    rtx.session().close()
    monkeypatch.setattr(fake_pycuda, "NAME", b"Another GPU")
    rtx.session().close()
    assert len(kernel_files(rtx)) == 4 and rtx.fake.compiled == [4, 1] * 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda f: f.chmod(0o666), "others can write it", id="file-of-others"),
        pytest.param(lambda f: f.parent.chmod(0o777), "others can write it", id="folder-of-others"),
        pytest.param(lambda f: f.write_bytes(b"x" + f.read_bytes()[1:]), "damaged", id="hash"),
        pytest.param(lambda f: f.write_bytes(f.read_bytes()[:-1] + b"x"), "damaged", id="kernels"),
        pytest.param(lambda f: f.write_bytes(b""), "damaged", id="empty"),
    ],
)
def test_kernels_that_are_not_trusted_are_compiled_again(
    rtx: Machine, monkeypatch: pytest.MonkeyPatch, spoil: Any, message: str
) -> None:
    bundle = rtx.bundle()
    Session(bundle, "tensorrt-rtx").close()
    (file,) = kernel_files(rtx)
    spoil(file)
    monkeypatch.setattr(
        fake_tensorrt.RuntimeCache, "deserialize", lambda cache, blob: pytest.fail("was read")
    )
    with Session(bundle, "tensorrt-rtx") as session:
        (note,) = session.describe()["backend_notes"]
        assert message in note and str(file.parent) in note
    assert file.stat().st_mode & 0o777 == 0o600
    assert rtx.fake.compiled == [4, 1] * 2


def test_kernels_of_another_machine_are_compiled_again(
    rtx: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = rtx.bundle()
    Session(bundle, "tensorrt-rtx").close()
    (file,) = kernel_files(rtx)
    content = file.read_bytes()
    monkeypatch.setattr(fake_tensorrt.RuntimeCache, "deserialize", lambda cache, blob: False)
    Session(bundle, "tensorrt-rtx").close()
    assert rtx.fake.compiled == [4, 1] * 2 and file.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_a_note(
    rtx: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CLINREADNET_CACHE", str(tmp_path / "file" / "cache"))
    with rtx.session() as session:
        (note,) = session.describe()["backend_notes"]
        assert note.startswith("kernels are not kept (")
        assert len(session.score(some_hu(2))) == 2
    monkeypatch.setenv("CLINREADNET_CACHE", "")
    with rtx.session() as session:
        assert session.describe()["backend_notes"] == []


def test_the_users_cache_is_the_default(rtx: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLINREADNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(rtx.folder / "cache"))
    rtx.session().close()
    assert len(list((rtx.folder / "cache" / "clinreadnet").iterdir())) == 1


def test_full_tensorrt_keeps_no_kernels(full: Machine) -> None:
    full.session().close()
    assert kernel_files(full) == []
