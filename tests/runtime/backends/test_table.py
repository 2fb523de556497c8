"""The table of backends: everything that reads it handles a made-up backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_bundle import write_bundle

from clinreadnet.backends import BACKENDS
from clinreadnet.runtime import BACKENDS as NAMES
from clinreadnet.runtime.backends.loading import LOADERS

MADE_UP = """
import sys
from pathlib import Path
from clinreadnet.backends import BACKENDS, BackendRow
BACKENDS["made-up"] = BackendRow(
    "made-up", "a made-up chip", "onnx", ("made-up-package",), "made-up", "made-up-library", True
)

from clinreadnet.runtime.backends import loading
from clinreadnet.runtime.bundle.files import load_manifest

loading.LOADERS["made-up"] = loading.Loader(loading.LOADERS["onnxruntime-cpu"].open, lambda: True)
bundle = Path(sys.argv[1])
manifest = load_manifest(bundle)
graph = manifest.artifacts[0]
"""

SEEN = {
    "session": """
        import numpy as np
        from clinreadnet.runtime import BACKENDS as names, Session
        assert names[-1] == "made-up"
        with Session(bundle, "made-up") as session:
            assert session.backend == "made-up"
            hu = np.random.default_rng(0).normal(40, 300, (1, 512, 512))
            assert session.score(hu).score.shape == (1,)
    """,
    "artifacts": """
        assert [a.kind for a in loading.artifacts_of("made-up", manifest)] == ["onnx", "onnx"]
    """,
    "records": """
        from clinreadnet.runtime.records import ran_on
        ran = ran_on("made-up", loading.this_machine("7.5"))
        assert (ran.gpu, ran.libraries["made-up-library"]) == (None, "7.5")
    """,
    "verify": """
        from clinreadnet.verify.backends import largest_batch, more_backends
        assert "made-up" in more_backends(manifest, graph)
        assert largest_batch("made-up", graph.batch) == 8
    """,
    "doctor": """
        from clinreadnet.runtime.doctor import diagnose
        (one,) = [f for f in diagnose().features if f.name == "score with a made-up chip"]
        assert one.missing == ["made-up-package"]
        assert one.command == 'pip install "clinreadnet[made-up]"'
    """,
    "command-line": """
        from clinreadnet.cli.options import Backends
        assert "openvino or made-up" in Backends.__metadata__[0].help
    """,
}


def test_every_backend_has_a_loader() -> None:
    assert list(LOADERS) == list(BACKENDS) == list(NAMES)
    assert all(name == row.name for name, row in BACKENDS.items())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "b")


@pytest.mark.parametrize("where", SEEN)
def test_a_made_up_backend_is_seen(where: str, bundle: Path) -> None:
    code = MADE_UP + "\n".join(line.removeprefix(8 * " ") for line in SEEN[where].splitlines())
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
