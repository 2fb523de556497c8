"""Ways to write the octaves of the attention in ONNX, timed in turn on this processor.

    python -m bench.studies.attention_forms > bench/results/attention/forms.json

The whole shipped network is exported once for each form and runs in ONNX Runtime and, where it is
installed, in OpenVINO, on one thread, one slice at a time. Times are processor time, so that other
programs disturb less. The score's difference is from the form that is exported.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor

from bench.recording import current_commit
from bench.statistics import paired_ratio, percentile
from clinreadnet.export.golden import calibration_slices
from clinreadnet.export.onnx.export import export_onnx
from clinreadnet.kernels.ops.window_attention import reference
from clinreadnet.machine import cpu_name
from clinreadnet.model.checkpoint import load_checkpoint, pretrained_path

ROUNDS = 40
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores [B, windows, heads, N, N], v [B, windows, heads, N, d] and gates [1, 1, heads, 1, T]:
returns [B, windows, heads, N, d]."""


def _scaled(power: Tensor, gates: Tensor, t: int) -> Tensor:
    return gates[..., t : t + 1] / power.sum(dim=-1, keepdim=True)


def softmax_and_powers(scores: Tensor, v: Tensor, gates: Tensor) -> Tensor:
    """One softmax, squared and normalised for each octave, mixed before one product with v."""
    return reference.mix_octaves(scores, gates) @ v


def exponential_and_powers(scores: Tensor, v: Tensor, gates: Tensor) -> Tensor:
    """The same with maximum, exponential and sum written out."""
    power = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    weights = power * _scaled(power, gates, 0)
    for t in range(1, gates.shape[-1]):
        power = power * power
        weights = weights + power * _scaled(power, gates, t)
    return weights @ v


def softmax_of_each(scores: Tensor, v: Tensor, gates: Tensor) -> Tensor:
    """A softmax for each octave, mixed before one product with v."""
    weights = scores.softmax(dim=-1) * gates[..., :1]
    for t in range(1, gates.shape[-1]):
        weights = weights + (2.0**t * scores).softmax(dim=-1) * gates[..., t : t + 1]
    return weights @ v


def product_of_each(scores: Tensor, v: Tensor, gates: Tensor) -> Tensor:
    """One softmax, its powers, and a product with v for each octave."""
    power = scores.softmax(dim=-1)
    out = (power @ v) * gates[..., :1]
    for t in range(1, gates.shape[-1]):
        power = power * power
        out = out + (power @ v) * _scaled(power, gates, t)
    return out


def exponential_product_of_each(scores: Tensor, v: Tensor, gates: Tensor) -> Tensor:
    """Maximum and exponential written out, its powers, and a product with v for each octave."""
    power = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    out = (power @ v) * _scaled(power, gates, 0)
    for t in range(1, gates.shape[-1]):
        power = power * power
        out = out + (power @ v) * _scaled(power, gates, t)
    return out


FORMS: dict[str, Mix] = {
    "one softmax, powers, one product": softmax_and_powers,
    "exponential, powers, one product": exponential_and_powers,
    "softmax of each, one product": softmax_of_each,
    "one softmax, powers, product of each": product_of_each,
    "exponential, powers, product of each": exponential_product_of_each,
}
"""The first is the exported one."""


@contextmanager
def written_as(form: Mix) -> Iterator[None]:
    """Within it, the reference mixes its octaves in a form."""
    with mock.patch.object(reference, "attend", form):
        yield


def runners(path: Path) -> dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """Return what runs a graph on one thread and gives its scores, by runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = {"onnxruntime": lambda hu: session.run(["score"], {"hu": hu})[0]}
    try:
        import openvino
    except ImportError:
        return found
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return found | {"openvino": lambda hu: np.array(request.infer({"hu": hu})["score"])}


def main() -> int:
    """Print the times of every form as JSON."""
    model = load_checkpoint(pretrained_path())
    hu = calibration_slices()[:1, None]
    run: dict[tuple[str, str], Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {}
    nodes = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, form) in enumerate(FORMS.items()):
            path = Path(folder) / f"{i}.onnx"
            with written_as(form):
                export_onnx(model, path, precision="fp32")
            nodes[name] = len(onnx.load(path).graph.node)
            run |= {(name, runtime): runner for runtime, runner in runners(path).items()}
        times: dict[tuple[str, str], list[float]] = {key: [] for key in run}
        scores = {key: runner(hu) for key, runner in run.items()}  # also warms up
        for _ in range(ROUNDS):
            for key, runner in run.items():
                start = time.process_time()
                runner(hu)
                times[key].append(time.process_time() - start)
    first = next(iter(FORMS))
    baseline = next(iter(run))
    rows = [
        {
            "form": name,
            "runtime": runtime,
            "nodes": nodes[name],
            "milliseconds": round(1e3 * percentile(seconds, 50), 1),
            "ratio": [round(x, 3) for x in paired_ratio(times[baseline], seconds)],
            "score_difference": float(
                np.abs(scores[name, runtime] - scores[first, "onnxruntime"]).max()
            ),
        }
        for (name, runtime), seconds in times.items()
    ]
    facts = {
        "command": "python -m bench.studies.attention_forms",
        "commit": current_commit(),
        "hardware": cpu_name(),
        "rounds": ROUNDS,
        "rows": rows,
    }
    json.dump(facts, sys.stdout, indent=1)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
