"""Records of the bundle inside the package."""

from __future__ import annotations

import pytest

from clinreadnet.runtime.bundle.default import SHIPPED
from clinreadnet.runtime.bundle.files import load_manifest


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_instruction_set_of_x86_64_has_a_record_of_the_default_bundle(precision: str) -> None:
    (entry,) = [a for a in load_manifest(SHIPPED).artifacts if a.precision == precision]
    assert {
        parity.ran_on.libraries["native"].split()[1]: parity.status
        for parity in entry.runs
        if parity.ran_on is not None and parity.ran_on.backend == "native"
    } == dict.fromkeys(["avx512", "avx2", "plain"], "passed")
