"""Everything that reads the registry of ops handles a made-up op."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed")

MADE_UP = """
from dataclasses import replace
from clinreadnet.kernels.ops.mlp.spec import MLP
from clinreadnet.kernels.registry import OPS

def sources(network):
    for source in MLP.sources(network):
        yield replace(source, name=source.name.replace("mlp", "made_up"))

OPS["made_up"] = replace(MLP, name="made_up", sources=sources)
"""

SEEN = {
    "export-kernels": """
        from clinreadnet.export.kernels import sources as exported
        assert {s.name for spec, s in exported("small") if spec.name == "made_up"} == {
            "made_up_48", "made_up_96"
        }
    """,
    "tune": """
        from clinreadnet.tuning.tunable import TUNABLE
        assert TUNABLE["made_up"]("float16", "48").candidates
    """,
    "plugins": """
        from clinreadnet.export.plugins.request import parse_plugins, plugin_ops
        assert plugin_ops()[-1] == "made_up" and parse_plugins("made_up") == ("made_up",)
        OPS["made_up"] = replace(OPS["made_up"], plugin=False)
        assert "made_up" not in plugin_ops()
    """,
    "plugin-plan": """
        from clinreadnet.export.plugins.plan import make_plan
        from clinreadnet.model.network import PRESETS
        plan = make_plan(PRESETS["small"], ("made_up",), "fp16", ())
        assert {node.source.name for node in plan.nodes} == {"made_up_48", "made_up_96"}
    """,
    "machine-code": """
        from bench.measure.machine_code import kernels
        ((spec, source), *_) = [pair for pair in kernels() if pair[0].name == "made_up"]
        case = spec.case(80, "float16", source.shape)
        assert spec.trips(case, source.shape) == 192 / case.constants["BLOCK_HIDDEN"]
    """,
}


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Return the printed text of each failed part of ``SEEN``. Each runs in a child process."""
    code = "import json, os, sys, torch, triton\n" + MADE_UP + inspect.getsource(run_each)
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nrun_each(json.load(sys.stdin))"],
        input=json.dumps({where: inspect.cleandoc(part) for where, part in SEEN.items()}),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {where: done.stderr for where in json.loads(done.stdout)}


def run_each(parts: dict[str, str]) -> None:
    """Run each part in a child of its own, and print which failed."""
    failed = []
    for where, part in parts.items():
        if (child := os.fork()) == 0:
            exec(part, globals())
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            failed.append(where)
    print(json.dumps(failed))


@pytest.mark.parametrize("where", SEEN)
def test_a_made_up_op_is_seen(where: str, failures: dict[str, str]) -> None:
    assert where not in failures, failures[where]
