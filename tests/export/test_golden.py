"""The reference's outputs that are kept beside the shipped checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from clinreadnet.export import golden
from clinreadnet.export.golden import complete_reference, known_reference
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path
from clinreadnet.runtime.bundle.default import SHIPPED
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.spec import OUTPUTS
from clinreadnet.verify.reference import GoldenSlices, reference_outputs

CHECKPOINT = pretrained_path("small")


def key(hu: np.ndarray) -> str:
    """Return the SHA-256 of the pixels of a slice, 16-bit and little-endian."""
    return digest(hu.astype("<i2").tobytes())


def test_they_are_what_the_network_computes() -> None:
    known = known_reference(CHECKPOINT)
    arrays = np.load(SHIPPED / "golden.npz", allow_pickle=False)
    keys = [key(hu) for hu in arrays["hu"]]
    assert set(keys) <= set(known)
    for name in OUTPUTS:
        kept = np.concatenate([known[k][name] for k in keys])
        np.testing.assert_array_equal(kept, arrays[name])
    computed = reference_outputs(load_checkpoint(CHECKPOINT), GoldenSlices(arrays["hu"][-2:]))
    for name in OUTPUTS:
        kept = np.concatenate([known[k][name] for k in keys[-2:]])
        np.testing.assert_allclose(kept, computed[name], rtol=1e-9, atol=1e-12)


def test_another_checkpoint_has_none(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    shutil.copy(CHECKPOINT, other)
    assert len(known_reference(other)) == len(known_reference(CHECKPOINT)) > 0
    other.write_bytes(other.read_bytes() + b" ")
    assert known_reference(other) == {}


def test_what_is_not_known_is_computed_and_added(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = np.load(SHIPPED / "golden.npz", allow_pickle=False)
    hu, known = arrays["hu"][:3], known_reference(CHECKPOINT)
    expected = {name: arrays[name][:3] for name in OUTPUTS}
    sizes: list[int] = []

    def computed(model: object, slices: GoldenSlices, advance: object) -> dict[str, np.ndarray]:
        sizes.append(len(slices))
        return {name: expected[name][1:2] for name in OUTPUTS}

    monkeypatch.setattr(golden, "reference_outputs", computed)
    del known[key(hu[1])]
    outputs = complete_reference(None, hu, known, lambda n: None)
    assert sizes == [1] and key(hu[1]) in known
    for name in OUTPUTS:
        np.testing.assert_array_equal(outputs[name], expected[name])
