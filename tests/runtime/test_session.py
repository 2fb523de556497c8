"""Sessions on a small graph: loading, errors and results."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from support.bodies import body, some_hu
from support.dicom_files import MR, make_ct, noise, write_series
from support.drawn_regions import abdomen, chest, neck
from support.tiny_bundle import THRESHOLD, make_graph, reference, write_bundle

from clinreadnet.data.region import UNSIZED, Region, find_region
from clinreadnet.errors import BackendUnavailable, CheckFailed, InputError, SessionClosed
from clinreadnet.precision import PRECISIONS
from clinreadnet.processor import processors
from clinreadnet.runtime import Scores, Session
from clinreadnet.runtime import session as session_module
from clinreadnet.runtime.backends import loading as backends_module
from clinreadnet.runtime.backends import onnxruntime_cuda
from clinreadnet.runtime.backends.onnxruntime import CPU, CUDA, OnnxRuntimeBackend
from clinreadnet.runtime.bundle.files import digest, load_manifest, write_manifest
from clinreadnet.runtime.bundle.manifest import BatchRange
from clinreadnet.runtime.comparison import relative_error
from clinreadnet.spec import OUTPUTS


def replace_graph(bundle: Path, content: bytes, index: int = 0) -> None:
    """Put another graph into the bundle, with its hash in the manifest."""
    manifest = load_manifest(bundle)
    artifacts = list(manifest.artifacts)
    artifacts[index] = dataclasses.replace(
        artifacts[index], sha256=digest(content), size=len(content)
    )
    (bundle / artifacts[index].file).write_bytes(content)
    write_manifest(dataclasses.replace(manifest, artifacts=tuple(artifacts)), bundle)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 9])
def test_scores_are_the_references_in_order_whatever_the_batches(bundle: Path, n: int) -> None:
    hu = some_hu(n)
    scores = Session(bundle).score(hu)
    assert isinstance(scores, Scores)
    assert (scores.score.shape, scores.probs.shape) == ((n,), (n, 21))
    assert scores.quality_map.shape == (n, 16, 16)
    expected = reference(hu)
    for name, value in expected.items():
        actual = getattr(scores, name)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, value, rtol=1e-5)


def test_slices_are_judged_by_the_threshold_of_the_manifest(bundle: Path) -> None:
    hu = np.stack([body(value) for value in (0, 390, 10)])
    scores = Session(bundle).score(hu)
    assert scores.threshold == THRESHOLD
    assert scores.in_domain is not None and scores.in_domain.dtype == np.bool_
    assert scores.in_domain.tolist() == (reference(hu)["novelty"] <= THRESHOLD).tolist()
    assert scores.in_domain.tolist() == [True, False, True]
    first = scores.take(1)
    assert first.in_domain is not None and first.in_domain.tolist() == [False]
    assert first.novelty is not None and first.novelty.tolist() == scores.novelty[1:2].tolist()  # type: ignore[index]


def test_a_score_comes_with_the_interval_of_its_distribution() -> None:
    probs = np.zeros((2, 21), np.float32)
    probs[0, [5, 10, 12]] = 0.04, 0.9, 0.06  # 0.04 below 2.0; 0.06 above
    probs[1, 20] = 1
    scores = Scores(np.zeros(2, np.float32), probs, np.zeros((2, 16, 16), np.float32))
    assert scores.low.dtype == scores.high.dtype == np.float32
    np.testing.assert_allclose(scores.low, [2.0, 4.0])
    np.testing.assert_allclose(scores.high, [2.4, 4.0])
    assert scores.in_domain is None


def test_each_slice_is_looked_at_with_its_own_pixel_size(bundle: Path) -> None:
    hu = np.stack([neck(), abdomen(), chest()])
    with Session(bundle) as session:
        sized = session.score(hu, [0.5, 0.75, None])
        bare = session.score(hu)
        blind = session.score(hu, 0.5, regions=False)
    assert sized.regions is not None and bare.regions is not None
    assert [region.answer for region in sized.regions] == ["outside", "abdomen", "outside"]
    assert sized.in_domain is not None and sized.in_domain.tolist() == [False, True, False]
    assert bare.regions[1] == Region("abdomen", UNSIZED)
    assert [region.answer for region in bare.regions] != [region.answer for region in sized.regions]
    assert blind.regions is None and blind.in_domain is not None and blind.in_domain.all()
    assert sized.take(2).regions == sized.regions[2:]
    assert Scores.concatenate([sized, bare]).regions == sized.regions + bare.regions


@pytest.mark.parametrize(
    ("pixel_mm", "message"),
    [
        ([0.7], "pixel_mm has 1 values for 2 slices"),
        (0.0, "pixel_mm=0.0: not a width in mm above 0"),
        ("0.7", "pixel_mm"),
        (float("nan"), "pixel_mm=nan"),
        ([0.7, -1], "pixel_mm=-1"),
    ],
)
def test_a_pixel_without_a_size_is_refused(bundle: Path, pixel_mm: Any, message: str) -> None:
    with Session(bundle) as session, pytest.raises(InputError, match=re.escape(message)):
        session.score(np.stack([body(0), body(10)]), pixel_mm)


def test_a_sure_abdomen_has_a_tenth_of_leeway_in_novelty() -> None:
    empty = np.zeros((3, 21), np.float32), np.zeros((3, 16, 16), np.float32)
    novelty = np.array([1.09, 1.09, 1.11], np.float32)
    regions = (Region("abdomen", "", 500.0), Region("abdomen", UNSIZED), Region("abdomen", "", 9.0))
    scores = Scores(novelty, *empty, novelty=novelty, threshold=1.0, regions=regions)
    assert scores.in_domain is not None and scores.in_domain.tolist() == [True, False, False]


def test_what_is_no_number_is_not_in_domain() -> None:
    empty = np.zeros((1, 21), np.float32), np.zeros((1, 16, 16), np.float32)
    nan = np.array([np.nan], np.float32)
    in_domain = Scores(nan, *empty, novelty=nan, threshold=1.0).in_domain
    assert in_domain is not None and in_domain.tolist() == [False]


def test_a_bundle_without_threshold_says_so(tmp_path: Path) -> None:
    session = Session(write_bundle(tmp_path / "b", threshold=None))
    scores = session.score(some_hu(1))
    assert scores.novelty is not None and scores.in_domain is None
    assert scores.low.shape == (1,)
    facts = session.describe()
    assert facts["novelty_threshold"] is None and "no novelty threshold" in facts["unjudged"]
    assert "\n" not in facts["unjudged"]
    json.dumps(facts)


def test_a_bundle_that_judges_says_by_what(bundle: Path) -> None:
    facts = Session(bundle).describe()
    assert (facts["novelty_threshold"], facts["unjudged"]) == (THRESHOLD, None)


def test_a_graph_without_novelty_is_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", precisions=("fp32",))
    content = make_graph(novel=False)
    raw = json.loads((path / "manifest.json").read_text())
    raw["artifacts"][0] |= {"sha256": digest(content), "size": len(content)}
    (path / "clinreadnet.fp32.onnx").write_bytes(content)
    (path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(BackendUnavailable, match="not a ClinReadNet graph .its outputs are"):
        Session(path, "onnxruntime-cpu")


def test_the_self_test_sees_the_novelty(tmp_path: Path) -> None:
    # Within the relative error that the output may have, and not within what one slice may.
    wrong = write_bundle(tmp_path / "b", novelty_scale=0.5 * (1 + 1.5e-5))
    with pytest.raises(CheckFailed, match="self-test failed .* slice's novelty is off by 1.5e-05"):
        Session(wrong, "onnxruntime-cpu", "fp32")


@pytest.mark.parametrize("dtype", ["int16", "int32", "float16", "float32", "float64", ">i2"])
def test_any_real_dtype_and_layout_is_accepted(bundle: Path, dtype: str) -> None:
    hu = some_hu(2).astype(np.int16)
    wide = np.repeat(hu.astype(dtype), 2, axis=2)[:, :, ::2]  # not contiguous
    np.testing.assert_allclose(Session(bundle).score(wide).score, reference(hu)["score"], rtol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_runs_stay_inside_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    path = write_bundle(tmp_path / "b", batch=BatchRange(2, 2, 3))
    sizes: list[int] = []
    run = OnnxRuntimeBackend.run

    def spy(self: OnnxRuntimeBackend, hu: Any) -> Any:
        sizes.append(len(hu))
        return run(self, hu)

    monkeypatch.setattr(OnnxRuntimeBackend, "run", spy)
    session = Session(path, batch=3)
    hu = some_hu(n)
    np.testing.assert_allclose(session.score(hu).score, reference(hu)["score"], rtol=1e-5)
    assert sizes and set(sizes) <= {2, 3}


def test_the_default_batch_suits_the_processor_inside_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = write_bundle(tmp_path / "small", batch=BatchRange(1, 1, 1))
    large = write_bundle(tmp_path / "large", batch=BatchRange(3, 16, 32))
    wide = write_bundle(tmp_path / "wide", batch=BatchRange(1, 16, 32))
    assert [Session(b).batch for b in (small, wide, large)] == [1, backends_module.CPU_BATCH, 3]


def test_the_default_is_the_most_accurate_graph_on_the_cpu(bundle: Path) -> None:
    session = Session(bundle)
    assert (session.backend, session.artifact.precision) == ("onnxruntime-cpu", "fp32")
    assert session.describe()["artifact"] == "clinreadnet.fp32.onnx"
    json.dumps(session.describe())


def test_a_named_precision_is_the_one_that_runs(bundle: Path) -> None:
    session = Session(bundle, precision="fp16")
    assert session.artifact.file == "clinreadnet.fp16.onnx"
    error = relative_error(session.score(some_hu(2)).score, reference(some_hu(2))["score"])
    assert 1e-7 < error < PRECISIONS["fp16"].budget


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"backends": "cuda"},
            "backends=cuda: unknown; known: tensorrt, tensorrt-rtx, onnx",
        ),
        ({"backends": ()}, "`backends` is empty; name some of tensorrt"),
        ({"workers": 0}, "workers=0: must be 1 or more"),
        ({"precision": "int8"}, "no ONNX graph in precision 'int8'; it holds fp32, fp16"),
        ({"batch": 9}, "batch 9 is outside the profile of clinreadnet.fp32.onnx, 1 to 8"),
        ({"batch": 0}, "batch 0 is outside"),
    ],
    ids=["backend", "no-backend", "workers", "precision", "batch-above", "batch-zero"],
)
def test_arguments_outside_the_bundle_are_refused(
    bundle: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Session(bundle, **arguments)


def test_an_explicit_backend_never_falls_back(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    with pytest.raises(BackendUnavailable, match="holds no tensorrt engine"):
        Session(bundle, "tensorrt")
    if CUDA not in onnxruntime.get_available_providers():
        with pytest.raises(BackendUnavailable, match="has no CUDAExecutionProvider"):
            Session(bundle, ("onnxruntime-cuda",))
    # A runtime that lists CUDA and quietly starts on the CPU, as ONNX Runtime does without a GPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, options, providers: real(model, options, providers=["CPUExecutionProvider"]),
    )
    monkeypatch.setattr(backends_module, "find_gpus", lambda: [])
    with pytest.raises(BackendUnavailable, match="no NVIDIA GPU is visible"):
        Session(bundle, "onnxruntime-cuda")
    monkeypatch.setattr(backends_module, "find_gpus", lambda: ["a GPU"])
    with pytest.raises(BackendUnavailable, match="does not start here"):
        Session(bundle, "onnxruntime-cuda")


def test_the_ladder_goes_down_and_keeps_each_reason(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    real = OnnxRuntimeBackend

    def on_cpu(content: bytes, **rest: Any) -> OnnxRuntimeBackend:
        tried.append(CPU)
        return real(content, **rest)

    def on_cuda(content: bytes, **rest: Any) -> OnnxRuntimeBackend:
        tried.append(CUDA)
        raise BackendUnavailable("no cuDNN")

    monkeypatch.setattr(backends_module, "OnnxRuntimeBackend", on_cpu)
    monkeypatch.setattr(onnxruntime_cuda, "OnnxRuntimeCudaBackend", on_cuda)
    monkeypatch.setattr(backends_module, "offers_cuda", lambda: True)
    monkeypatch.setattr(backends_module, "find_gpus", lambda: ["a GPU"])
    session = Session(bundle)
    assert (session.backend, tried) == ("onnxruntime-cpu", [CUDA, CPU])
    assert session.refused == {
        "tensorrt": f"{bundle}: holds no tensorrt engine; export it with one",
        "tensorrt-rtx": f"{bundle}: holds no tensorrt-rtx engine; export it with one",
        "onnxruntime-cuda": "no cuDNN",
        "native": f"{bundle}: holds no checkpoint; export it with one",
    }
    assert Session(bundle, ("onnxruntime-cpu", "onnxruntime-cuda")).refused == {}
    with pytest.raises(BackendUnavailable, match="cuda: no cuDNN; nothing in it for tensorrt"):
        Session(bundle, ("tensorrt", "onnxruntime-cuda"))
    tried.clear()
    monkeypatch.setattr(backends_module, "find_gpus", lambda: [])
    assert "no NVIDIA GPU" in Session(bundle).refused["onnxruntime-cuda"]
    assert tried == [CPU]


def test_a_backend_that_fails_its_self_test_is_closed_and_the_ladder_goes_on(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Wrong(OnnxRuntimeBackend):
        def __init__(self, content: bytes, **rest: Any) -> None:
            super().__init__(content)

        def run(self, hu: Any) -> Any:
            outputs = dict(super().run(hu))
            return outputs | {"score": outputs["score"] + 0.1}

        def close(self) -> None:
            closed.append(CUDA)
            super().close()

    monkeypatch.setattr(onnxruntime_cuda, "OnnxRuntimeCudaBackend", Wrong)
    monkeypatch.setattr(backends_module, "find_gpus", lambda: ["a GPU"])
    session = Session(bundle, ("onnxruntime-cuda", "onnxruntime-cpu"))
    assert session.backend == "onnxruntime-cpu" and closed == [CUDA]
    assert "self-test failed on onnxruntime-cuda" in session.refused["onnxruntime-cuda"]
    with pytest.raises(CheckFailed, match="self-test failed on onnxruntime-cuda, score is off"):
        Session(bundle, "onnxruntime-cuda")
    with pytest.raises(CheckFailed, match="no backend works here"):
        Session(bundle, ("tensorrt", "onnxruntime-cuda"))


@pytest.mark.usefixtures("without_openvino")
def test_a_missing_onnxruntime_names_its_package(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match=r'pip install "clinreadnet\[cpu\]"'):
        Session(bundle)


def test_an_unverified_bundle_is_refused_unless_allowed(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", verified=False)
    with pytest.raises(InputError, match="not verified; run `clinreadnet verify"):
        Session(path)
    assert not Session(path, allow_unverified=True).describe()["verified"]


@pytest.mark.parametrize(
    ("precision", "offset", "passes"),
    [
        ("fp32", 1e-6, True),
        ("fp32", 1e-3, False),
        ("fp16", 1e-3, True),
        ("fp16", 0.1, False),
        ("fp32", float("nan"), False),
    ],
    ids=["fp32-rounding", "fp32-wrong", "fp16-rounding", "fp16-wrong", "fp32-nan"],
)
def test_the_self_test_holds_the_graph_to_its_budget(
    tmp_path: Path, precision: str, offset: float, passes: bool
) -> None:
    path = write_bundle(tmp_path / "b", score_offset=offset)
    if passes:
        Session(path, precision=precision)
    else:
        with pytest.raises(CheckFailed) as failure:
            Session(path, precision=precision)
        assert "self-test failed on onnxruntime-cpu, score is off" in failure.value.full


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a graph", "not an ONNX graph"), (b"", "size: Expected `int` >= 1")],
    ids=["not-onnx", "empty"],
)
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = write_bundle(tmp_path / "b")
    with pytest.raises(InputError, match=message) as refusal:
        replace_graph(path, content)
        Session(path)
    assert "\n" not in str(refusal.value)


def test_a_graph_with_other_inputs_or_outputs_is_refused(tmp_path: Path) -> None:
    import onnx

    model = onnx.load_from_string(make_graph())
    del model.graph.output[1]
    path = write_bundle(tmp_path / "b")
    replace_graph(path, model.SerializeToString())
    with pytest.raises(InputError, match="its outputs are"):
        Session(path, "onnxruntime-cpu")
    model = onnx.load_from_string(make_graph())
    model.graph.input[0].name = model.graph.node[0].input[0] = "image"
    replace_graph(path, model.SerializeToString())
    with pytest.raises(InputError, match="its input is not float `hu`"):
        Session(path, "onnxruntime-cpu")


def nan_slice() -> np.ndarray:
    hu = some_hu(3)
    hu[1, 0, 0] = np.nan
    return hu


@pytest.mark.parametrize(
    ("hu", "message"),
    [
        (np.zeros((512, 511)), r"shape \[512, 511\], expected \[n, 512, 512\]"),
        (np.zeros((1, 1, 512, 512)), r"shape \[1, 1, 512, 512\]"),
        (np.zeros((2, 256, 512)), r"shape \[2, 256, 512\]"),
        (np.zeros((0, 512, 512)), "no slice"),
        (np.zeros((1, 512, 512), complex), "dtype complex128"),
        (np.ma.masked_equal(np.arange(512 * 512.0).reshape(512, 512), 3.0), "masked pixels"),
        (np.zeros((1, 512, 512), bool), "dtype bool"),
        (nan_slice(), r"hu\[1\] holds NaN"),
    ],
    ids=["2d", "4d", "wrong-size", "empty", "complex", "masked", "bool", "nan"],
)
def test_bad_arrays_are_refused_and_the_session_goes_on(
    bundle: Path, hu: np.ndarray, message: str
) -> None:
    session = Session(bundle)
    with pytest.raises(InputError, match=message):
        session.score(hu)
    assert session.score(some_hu(1)).score.shape == (1,)


def test_one_slice_and_files_are_taken_as_people_have_them(bundle: Path, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", 3)
    written = [folder / f"IM000{n}.dcm" for n in (3, 2, 1)]
    with Session(bundle) as session:
        hu = some_hu(1)
        np.testing.assert_array_equal(session.score(hu[0]).score, session.score(hu).score)
        slices, scores = session.score_files(folder)
        assert [ref.path for ref in slices] == written and len(scores) == 3
        alone, score = session.score_files([written[1], written[2]])
        assert [ref.path for ref in alone] == written[1:]
        np.testing.assert_allclose(score.score, scores.score[1:], atol=1e-5)
        stack = np.stack([ref.load() for ref in slices])
        expected = session.score(stack, [ref.pixel_mm for ref in slices])
        np.testing.assert_array_equal(scores.in_domain, expected.in_domain)
        with pytest.raises(InputError, match="none: no such file or folder"):
            session.score_files(tmp_path / "none")
        raw = np.clip(hu + 1024, 0, 4095).astype(np.uint16)
        raw[raw == 0] = 1
        with pytest.raises(InputError, match="rescale slope and intercept"):
            session.score(raw)
        with session.stream() as stream, pytest.raises(InputError, match=r"\[512, 512\]"):
            stream.put(hu)


def test_datasets_are_scored_as_their_files_are(bundle: Path, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "series", 3)
    files = sorted(folder.iterdir())
    datasets = [pydicom.dcmread(path) for path in files]
    by_hand = make_ct(noise())
    del by_hand.file_meta
    with Session(bundle) as session:
        of_files = {ref.path: i for i, ref in enumerate(session.score_files(folder)[0])}
        expected = session.score_files(folder)[1]
        scores = session.score(datasets)  # in the order given
        for i, path in enumerate(files):
            place = of_files[path]
            assert scores.score[i] == pytest.approx(expected.score[place], abs=1e-5)
            assert scores.regions is not None and expected.regions is not None
            assert scores.regions[i] == expected.regions[place]
        assert session.score(datasets[1]).score == pytest.approx(scores.score[1:2], abs=1e-5)
        slices, again = session.score_files(datasets)  # in the order of the series
        assert [ref.path for ref in slices] == list(of_files)
        np.testing.assert_array_equal(again.score, expected.score)
        assert len(session.score(by_hand)) == 1
        for bad, message in (
            (make_ct(noise(), RescaleSlope=None), "dataset 0: no RescaleSlope"),
            (make_ct(noise(), Modality="MR", SOPClassUID=MR), "dataset 0: MR Image Storage"),
            (make_ct(noise(shape=(256, 256))), "dataset 0: 256x256 pixels"),
            (make_ct(noise(), PixelData=bytes(8)), "dataset 0: truncated"),
            (pydicom.Dataset(), "dataset 0: "),
        ):
            with pytest.raises(InputError, match=message):
                session.score(bad)
            with pytest.raises(InputError, match=message):
                session.score_files(bad)
        with pytest.raises(InputError, match="`score_files` reads files"):
            session.score(str(folder))


def test_a_closed_session_says_so_and_may_be_closed_again(bundle: Path) -> None:
    with Session(bundle) as session:
        assert len(session.score(some_hu(2))) == 2
    for use in (lambda: session.score(some_hu(1)), session.stream):
        with pytest.raises(SessionClosed, match="closed; make another"):
            use()
    session.close()


def test_a_session_outlives_its_folder(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b")
    with Session(path) as session:
        shutil.rmtree(path)
        np.testing.assert_allclose(
            session.score(some_hu(2)).score, reference(some_hu(2))["score"], rtol=1e-5
        )
    with pytest.raises(InputError, match="no such bundle"):
        Session(path)


def test_a_bundle_that_vanishes_while_it_loads_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_bundle(tmp_path / "b")
    real = backends_module.read_listed

    def vanish(*arguments: Any) -> bytes:
        shutil.rmtree(path)
        return real(*arguments)

    monkeypatch.setattr(backends_module, "read_listed", vanish)
    with pytest.raises(InputError, match="listed in the manifest but missing"):
        Session(path, "onnxruntime-cpu")


def test_sixteen_threads_get_the_bits_that_one_gets(bundle: Path) -> None:
    inputs = [some_hu(n % 5 + 1) for n in range(32)]
    with Session(bundle, batch=4, workers=3) as session:
        expected = [session.score(hu) for hu in inputs]
        with ThreadPoolExecutor(16) as pool:
            actual = list(pool.map(session.score, inputs))
    for first, other in zip(expected, actual, strict=True):
        for name in OUTPUTS:
            np.testing.assert_array_equal(getattr(first, name), getattr(other, name))


def test_body_parts_and_figures_of_many_slices_are_those_of_each(bundle: Path) -> None:
    hu = np.stack(4 * [chest(), abdomen(), neck(), abdomen()]).astype(np.int16)
    sizes = [0.7, 0.8, None, 0.6, *12 * [0.9]]
    with Session(bundle, "onnxruntime-cpu", batch=4) as session:
        together = session.score(hu, sizes, figures=True)
        alone = [session.score(*pair, figures=True) for pair in zip(hu, sizes, strict=True)]
    assert together.regions == tuple(scores.regions[0] for scores in alone)  # type: ignore[index]
    assert together.figures == tuple(scores.figures[0] for scores in alone)  # type: ignore[index]


def looks_and_runs(monkeypatch: pytest.MonkeyPatch, wait: float) -> list[str]:
    """Return a list to which "look" and "run" are added; a run first waits for a look."""
    events: list[str] = []
    looked, run = threading.Event(), OnnxRuntimeBackend.run

    def look(*arguments: Any) -> Region:
        events.append("look")
        looked.set()
        return find_region(*arguments)

    def waits(self: OnnxRuntimeBackend, hu: Any) -> Any:
        looked.wait(wait)
        events.append("run")
        return run(self, hu)

    monkeypatch.setattr(session_module, "find_region", look)
    monkeypatch.setattr(OnnxRuntimeBackend, "run", waits)
    return events


@pytest.mark.skipif(processors() < 2, reason="a single processor uses no threads")
def test_slices_are_looked_at_while_the_network_runs(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(bundle, "onnxruntime-cpu", batch=8) as session:
        events = looks_and_runs(monkeypatch, 20)
        assert len(session.score(some_hu(16))) == 16
    assert events[0] == "look" and sorted(events) == [*16 * ["look"], "run", "run"]


def test_with_a_single_thread_they_are_looked_at_afterwards(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(bundle, "onnxruntime-cpu", batch=8, threads=1) as session:
        events = looks_and_runs(monkeypatch, 0)
        session.score(some_hu(16))
    assert events == ["run", "run", *16 * ["look"]]


def test_a_machine_that_starts_no_thread_gets_the_same_scores(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hu = some_hu(16)
    with Session(bundle, "onnxruntime-cpu", batch=8) as session:
        expected = session.score(hu)

        def refused(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refused)
        scores = session.score(hu)
    np.testing.assert_array_equal(scores.score, expected.score)
    assert scores.regions == expected.regions


def test_an_interrupt_of_a_run_cancels_the_looks(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def look(*arguments: Any) -> Region:
        begun.append(1)
        time.sleep(0.2)
        return find_region(*arguments)

    def interrupted(self: OnnxRuntimeBackend, hu: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(session_module, "find_region", look)
    with Session(bundle, "onnxruntime-cpu", threads=2) as session:
        monkeypatch.setattr(OnnxRuntimeBackend, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.score(np.repeat(some_hu(1), 64, axis=0))
    assert len(begun) < 64


def is_closed(session: Session) -> bool:
    try:
        with session.stream():
            return False
    except SessionClosed:
        return True


def test_closing_waits_for_the_runs_under_way(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    run = OnnxRuntimeBackend.run

    def slow(self: OnnxRuntimeBackend, hu: Any) -> Any:
        begun.set()
        go_on.wait(60)
        return run(self, hu)

    session = Session(bundle)
    monkeypatch.setattr(OnnxRuntimeBackend, "run", slow)
    with ThreadPoolExecutor(3) as pool:
        scoring = pool.submit(session.score, some_hu(1))
        assert begun.wait(60)
        closing = pool.submit(session.close)
        while not is_closed(session):
            time.sleep(0.001)
        late = pool.submit(session.score, some_hu(1))
        assert not closing.done() and not scoring.done()
        go_on.set()
        assert len(scoring.result(60)) == 1
        closing.result(60)
        assert isinstance(late.exception(60), SessionClosed)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_values_far_outside_the_range_are_clipped_in_the_graph(
    bundle: Path, dtype: type, precision: str
) -> None:
    hu = some_hu(1).astype(dtype)
    hu[0, :40], hu[0, 40:80] = 31000, -3024
    session = Session(bundle, precision=precision)
    assert session.score(hu).score[0] == pytest.approx(reference(hu)["score"][0], abs=5e-3)


def test_relative_error_is_infinite_for_what_cannot_be_compared() -> None:
    assert relative_error([1.0, 2.0], [1.0, 2.0]) == 0
    assert relative_error([1.1], [1.0]) == pytest.approx(0.1)
    assert relative_error([np.nan], [1.0]) == float("inf")
    assert relative_error([1.0], [1.0, 2.0]) == float("inf")


def test_importing_the_runtime_is_light() -> None:
    code = (
        "import sys, clinreadnet.runtime; from clinreadnet.runtime import Session, Scores; "
        "heavy = {'torch', 'onnxruntime', 'onnx', 'triton', 'pydicom', 'matplotlib', 'rich', "
        "'pycuda', 'tensorrt', 'tensorrt_rtx', 'cryptography'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


def test_a_session_never_imports_torch(bundle: Path) -> None:
    code = (
        "import sys, numpy as np; from clinreadnet.runtime import Session; "
        "hu = np.linspace(-1000, 400, 512 * 512).reshape(1, 512, 512); "
        f"s = Session({str(bundle)!r}); s.score(hu); "
        "print(sorted({'torch', 'triton', 'onnx', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
