"""Engines are verified through the backend of a session, on a fake GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import fake_tensorrt
from support.fake_machine import Machine, start
from support.fake_tensorrt import Engine
from support.tiny_bundle import reference

from clinreadnet import __version__
from clinreadnet.errors import BackendUnavailable, CheckFailed
from clinreadnet.processor import cpu_name
from clinreadnet.runtime import Session
from clinreadnet.runtime.backends.tensorrt import TensorRTBackend
from clinreadnet.runtime.bundle.files import load_manifest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Parity
from clinreadnet.verify.record import record
from clinreadnet.verify.run import golden_evidence, steps, verify_artifact, verify_golden

ENGINE = "clinreadnet.fp16.engine"


@pytest.fixture(params=["tensorrt-11", "tensorrt-rtx"])
def machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Machine:
    return start(monkeypatch, request.param, tmp_path)


def parity_of(bundle: Path) -> Parity:
    """Verify the engine alone, with labels that can be ranked."""
    manifest = load_manifest(bundle)
    evidence = golden_evidence(read_golden(bundle, manifest.golden))
    evidence = dataclasses.replace(evidence, labels=np.full(len(evidence.labels), np.nan))
    return verify_artifact(bundle, manifest.artifact(ENGINE), evidence, manifest)


def test_an_engine_that_loads_here_runs_at_every_batch_size(machine: Machine) -> None:
    parity = parity_of(machine.bundle())
    assert parity.status == "passed", parity.reason
    assert parity.details["batches"] == [1, 4, 5, 8]
    ran = parity.ran_on
    assert ran is not None
    assert (ran.backend, ran.gpu, ran.target, ran.driver) == (
        machine.flavour,
        "Fake GPU",
        "sm89",
        "580.65.06",
    )
    assert ran.libraries == {"clinreadnet": __version__, machine.flavour: machine.fake.version}
    assert ran.processor == cpu_name() and ran.date.endswith("Z")
    assert machine.gpu.live() == {"memory": 0, "pinned": 0, "graphs": 0, "streams": 0}


def test_an_engine_that_is_wrong_in_large_batches_fails(machine: Machine) -> None:
    parity = parity_of(machine.bundle(Engine(offset=0.5, first_wrong=6)))
    assert parity.status == "failed"
    assert "batch 8, position 6" in str(parity.reason)
    assert "score is off by" in str(parity.reason)
    assert "batch 4, position" not in str(parity.reason)


def test_an_engine_of_another_gpu_is_not_run(machine: Machine) -> None:
    parity = parity_of(machine.bundle(Engine(target="sm120")))
    assert parity.status == "not run here"
    assert "built for sm120, this GPU is sm89" in str(parity.reason)


def test_an_engine_that_fails_on_the_gpu_fails(machine: Machine) -> None:
    machine.gpu.fail_next = RuntimeError("[engine.cpp] illegal memory access")
    parity = parity_of(machine.bundle())
    assert parity.status == "failed" and "illegal memory access" in str(parity.reason)


def test_a_batch_that_does_not_fit_is_noted(machine: Machine) -> None:
    machine.gpu.capacity = 24 * 2**20
    parity = parity_of(machine.bundle(Engine(scratch=3 * 2**20)))
    assert parity.status == "passed", parity.reason
    assert parity.details["note"] == "batches above 4 were not run; the profile goes to 8"


def test_a_report_and_its_progress_count_engines(machine: Machine) -> None:
    bundle = machine.bundle()
    manifest = load_manifest(bundle)
    progress: list[int] = []
    report = verify_golden(bundle, manifest, progress.append)
    assert {a.file: a.parity.ran_on is not None for a in report.artifacts if a.parity}[ENGINE]
    assert steps(manifest, manifest.golden.slices, golden=True) > 18


def test_a_session_tests_itself_at_its_batch(machine: Machine) -> None:
    bundle = machine.bundle(Engine(offset=0.5, first_wrong=2))
    with Session(bundle, machine.flavour, batch=2) as session:
        assert session.batch == 2
    with pytest.raises(CheckFailed, match="at batch 4, .*score is off by"):
        Session(bundle, machine.flavour, batch=4)


def slices_run(machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the batches that a session's self-test runs."""
    sizes: list[int] = []
    real = TensorRTBackend.run

    def run(backend: TensorRTBackend, hu: Any) -> Any:
        sizes.append(len(hu))
        return real(backend, hu)

    with monkeypatch.context() as patch:
        patch.setattr(TensorRTBackend, "run", run)
        with Session(bundle, machine.flavour, batch=2) as session:
            facts = session.describe()
    assert facts["self_test_slices"] == (1 if facts["verified_here"] else 3)
    return sizes


def test_an_engine_without_a_record_for_this_gpu_runs_all_golden_slices(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = machine.bundle(verifiable=True)
    alone, everywhere, all_in_batches = [1, 1, 1], [2], [2, 2]
    assert slices_run(machine, bundle, monkeypatch) == [*alone, *everywhere, *all_in_batches]
    manifest = load_manifest(bundle)
    record(verify_golden(bundle, manifest), manifest)
    assert slices_run(machine, bundle, monkeypatch) == [1, 2]
    monkeypatch.setattr("support.fake_pycuda.NAME", b"Other GPU")
    assert len(slices_run(machine, bundle, monkeypatch)) == 6


def test_an_engine_that_is_wrong_on_a_later_golden_slice_is_seen_without_a_record(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first golden slice passes."""
    bundle = machine.bundle(verifiable=True)
    golden = read_golden(bundle, load_manifest(bundle).golden)
    real = fake_tensorrt.reference
    last = reference(golden["hu"][2:3])["score"]

    def wrong(hu: Any) -> Any:
        outputs = real(hu)
        outputs["score"] += 0.3 * np.isclose(outputs["score"], last)
        return outputs

    monkeypatch.setattr(fake_tensorrt, "reference", wrong)
    with pytest.raises(CheckFailed, match="self-test failed on .*score is off by"):
        Session(bundle, machine.flavour)


def test_an_engine_that_failed_on_this_gpu_is_not_loaded(machine: Machine) -> None:
    bundle = machine.bundle(Engine(offset=0.5, first_wrong=6), verifiable=True)
    Session(bundle, machine.flavour).close()  # at batch 4 it is right
    manifest = load_manifest(bundle)
    record(verify_golden(bundle, manifest), manifest)
    machine.fake.deserialised.clear()
    with pytest.raises(BackendUnavailable, match="failed `clinreadnet verify` on Fake GPU, 20"):
        Session(bundle, machine.flavour)
    assert machine.fake.deserialised == []
    with Session(bundle) as session:
        assert session.backend == "onnxruntime-cpu"
        assert "failed `clinreadnet verify`" in session.refused[machine.flavour]
