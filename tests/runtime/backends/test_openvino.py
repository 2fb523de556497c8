"""The OpenVINO backend, if OpenVINO is installed, on a bundle of a few operators."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support.tiny_bundle import make_graph, reference, write_bundle

from clinreadnet.errors import BackendError, BackendUnavailable, CheckFailed, InputError
from clinreadnet.precision import PRECISIONS
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.openvino import OpenVinoBackend, installed_version
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.spec import OUTPUTS
from clinreadnet.verify.record import record
from clinreadnet.verify.run import verify_golden

needs_openvino = pytest.mark.skipif(
    installed_version() is None, reason="openvino is not installed: the extra openvino"
)
HU = np.random.default_rng(0).normal(40, 200, (4, 512, 512))


def check(outputs: dict[str, NDArray[np.float32]], hu: NDArray[np.float64]) -> None:
    expected = reference(hu)
    for name in OUTPUTS:
        np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-5, atol=1e-6)
        assert outputs[name].dtype == np.float32


def test_without_it_the_session_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert installed_version() is None
    with pytest.raises(BackendUnavailable, match=r'openvino is not installed; run `pip install "c'):
        Session(write_bundle(tmp_path / "bundle"), "openvino")


def test_it_runs_on_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clinreadnet.runtime.session.check_device", lambda device: None)
    with pytest.raises(InputError, match="device=1: openvino runs on no GPU"):
        Session(write_bundle(tmp_path / "bundle"), "openvino", device=1)


@needs_openvino
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_every_size_of_a_batch_is_the_reference(half: bool) -> None:
    backend = OpenVinoBackend(make_graph(half=half))
    for n in (1, 3, 4, 1):
        outputs = backend.run(HU[:n, None])
        if half:
            limits = PRECISIONS["fp16"].budget
            np.testing.assert_allclose(outputs["score"], reference(HU[:n])["score"], rtol=limits)
        else:
            check(outputs, HU[:n])


@needs_openvino
@pytest.mark.parametrize("workers", [1, 3])
def test_threads_may_share_it(workers: int) -> None:
    backend = OpenVinoBackend(make_graph(), workers=workers, threads=1)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(20):
                check(backend.run(HU[number : number + 1, None]), HU[number : number + 1])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@needs_openvino
def test_results_stay_when_the_next_run_comes() -> None:
    backend = OpenVinoBackend(make_graph())
    first = backend.run(HU[:1, None])
    kept = {name: value.copy() for name, value in first.items()}
    backend.run(HU[1:2, None] + 500)
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value)


@needs_openvino
@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(b"no graph", "OpenVINO refuses it", id="no-graph"),
        pytest.param(make_graph(novel=False), "its outputs are", id="other-outputs"),
    ],
)
def test_a_graph_that_is_not_ours_is_refused(model: bytes, message: str) -> None:
    with pytest.raises(BackendUnavailable, match=f"a.onnx: .*{message}"):
        OpenVinoBackend(model, file="a.onnx")


@needs_openvino
def test_a_closed_backend_fails_in_one_line() -> None:
    backend = OpenVinoBackend(make_graph())
    backend.close()
    with pytest.raises(BackendError, match="OpenVINO failed"):
        backend.run(HU[:1, None])


@needs_openvino
def test_a_session_tests_all_golden_slices_until_it_is_verified_here(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", verifiable=True)
    with Session(bundle, "openvino") as session:
        facts = session.describe()
        assert facts["self_test_slices"] == load_manifest(bundle).golden.slices
        assert facts["verified_here"] is None and facts["device"] is None
        np.testing.assert_allclose(session.score(HU).score, reference(HU)["score"], rtol=1e-5)
    report = verify_golden(bundle, load_manifest(bundle))
    assert report.passed
    ran = {parity.ran_on.backend for a in report.artifacts for parity in a.records if parity.ran_on}
    assert ran == {"openvino"}
    record(report, load_manifest(bundle))
    with Session(bundle, "openvino") as session:
        facts = session.describe()
        assert facts["self_test_slices"] == 1 and facts["verified_here"]


@needs_openvino
def test_a_wrong_graph_fails_the_self_test(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", score_offset=0.1)
    with pytest.raises(CheckFailed, match="self-test failed on openvino"):
        Session(bundle, "openvino")


@needs_openvino
def test_it_sends_no_telemetry(tmp_path: Path) -> None:
    """OpenVINO opens no connection, starts no process, and writes no file to the user's home."""
    graph = tmp_path / "a.onnx"
    graph.write_bytes(make_graph())
    program = f"""
import sys, time
seen = []
names = ("socket.connect", "socket.getaddrinfo", "os.fork", "os.posix_spawn", "subprocess.Popen")
sys.addaudithook(lambda name, args: seen.append(name) if name in names else None)
import numpy as np
from clinreadnet.runtime.backends.openvino import OpenVinoBackend, installed_version
assert installed_version()
backend = OpenVinoBackend(open({str(graph)!r}, "rb").read())
backend.run(np.zeros((1, 1, 512, 512), np.float32))
time.sleep(1)
assert not seen, seen
assert "openvino_telemetry" not in sys.modules
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []


@needs_openvino
@pytest.mark.parametrize(
    "batch, options, processors",
    [
        (4, {}, None),
        (6, {}, None),
        (8, {}, None),
        (1, {"threads": 1}, None),
        (1, {"workers": 2}, None),
        (1, {}, 1),
    ],
    ids=["4", "6", "8", "single-thread", "two-workers", "single-processor"],
)
def test_a_run_in_which_openvino_crashes_passes(
    batch: int, options: dict[str, int], processors: int | None, graph: Callable[[str, str], Path]
) -> None:
    """It runs in a child process, because a crash ends the process."""
    program = f"""
import os
if {processors}:
    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:{processors}])
import numpy as np
from clinreadnet.runtime.backends.openvino import OpenVinoBackend
content = open({str(graph("tiny", "fp32"))!r}, "rb").read()
print(OpenVinoBackend(content, **{options}).run(np.zeros(({batch}, 1, 512, 512)))["score"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
