"""Checks of an engine's plugins by the builder, on a fake of TensorRT."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from clinreadnet.errors import CheckFailed, ClinReadNetError
from clinreadnet.export.plugins import register
from clinreadnet.export.plugins.plan import Plan, PluginNode
from clinreadnet.export.plugins.register import GraphPlugins
from clinreadnet.runtime.backends.flavours import newest

SOURCE: Any = types.SimpleNamespace(name="mlp_48")
STEM: Any = types.SimpleNamespace(name="sobel_stem")
MLP = PluginNode("mlp_48_16384", "mlp", SOURCE, ("stages.0.0", "stages.0.1"), {"tokens": 16384})
EDGES = PluginNode("sobel_stem_512x512", "sobel_stem", STEM, ("stem",), {"H": 512, "W": 512})
KERNELS: Any = {"sm80": {"mlp_48": "portable", "sobel_stem": "s80"}, "sm90": {"mlp_48": "k90"}}
LAYERS = {
    "MATRIX_MULTIPLY": {"FLOAT": 5, "HALF": 30},
    "CONVOLUTION": {"FLOAT": 1, "HALF": 2},
    "PLUGIN_V3": {"HALF": 2},
}


def test_each_node_must_have_become_a_plugin() -> None:
    plugins = GraphPlugins(Plan("fp16", (MLP,), {}, KERNELS))
    plugins.check(LAYERS, "fp16", "graph")
    with pytest.raises(CheckFailed, match="0 of 2 nodes became plugins; this TensorRT's parser"):
        plugins.check({**LAYERS, "PLUGIN_V3": {}}, "fp16", "graph")
    with pytest.raises(CheckFailed, match="MATRIX_MULTIPLY layers are"):
        plugins.check({**LAYERS, "MATRIX_MULTIPLY": {"FLOAT": 35}}, "fp16", "graph")


def test_the_edges_of_a_stem_that_is_a_plugin_are_not_missed() -> None:
    plugins = GraphPlugins(Plan("fp16", (MLP, EDGES), {}, KERNELS))
    layers = {**LAYERS, "CONVOLUTION": {"HALF": 1}, "PLUGIN_V3": {"HALF": 3}}
    plugins.check(layers, "fp16", "graph")
    with pytest.raises(CheckFailed, match="CONVOLUTION layers are"):
        plugins.check({**layers, "CONVOLUTION": {"FLOAT": 1, "HALF": 1}}, "fp16", "graph")


@pytest.mark.parametrize(
    ("portable", "target", "kernel"),
    [(False, "sm90", "k90"), (False, "sm80", "portable"), (True, "sm90", "portable")],
    ids=["sm90", "sm80", "hardware-compatible"],
)
def test_each_target_gets_its_kernels(
    portable: bool, target: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(register, "register_plugins", lambda trt, module, ks: given.append(ks))
    monkeypatch.setattr(register, "plugin_module", lambda trt, flavour: "module")
    flag = types.SimpleNamespace(PREFER_AOT_PYTHON_PLUGINS=4)
    trt = types.SimpleNamespace(NetworkDefinitionCreationFlag=flag)
    plugins = GraphPlugins(Plan("fp16", (MLP,), {}, KERNELS), portable=portable)
    assert plugins.prepare(trt, newest("tensorrt")) == 1 << 4
    plugins.register(trt, target)
    assert given[-1] == {"mlp_48_16384": kernel}


def test_a_tensorrt_without_such_plugins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    old: Any = types.ModuleType("old_tensorrt")
    old.__version__ = "10.3.0"
    plugins = GraphPlugins(Plan("fp16", (MLP,), {}, KERNELS))
    message = "tensorrt 10.3.0 takes no plugins that are compiled ahead of time; .*10.13 and later"
    with pytest.raises(ClinReadNetError, match=message):
        plugins.prepare(old, newest("tensorrt"))
    monkeypatch.setitem(sys.modules, "old_tensorrt.plugin", types.ModuleType("plugin"))
    with pytest.raises(ClinReadNetError, match=message):
        plugins.prepare(old, newest("tensorrt"))
