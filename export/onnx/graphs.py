"""Write the ONNX graphs of a bundle, one per precision, and their manifest entries."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnxscript
import torch
from rich.progress import Progress

from clinreadnet.errors import CheckFailed
from clinreadnet.export.golden import calibration_slices
from clinreadnet.export.onnx.export import export_onnx
from clinreadnet.export.onnx.precision import convert, find_islands, float32_products
from clinreadnet.export.onnx.quantization import quantize, quantize_dynamically
from clinreadnet.model.network import ClinReadNet
from clinreadnet.precision import PRECISIONS, lowered_precisions
from clinreadnet.runtime.backends.onnxruntime import installed_version
from clinreadnet.runtime.bundle.files import digest
from clinreadnet.runtime.bundle.golden import read_golden
from clinreadnet.runtime.bundle.manifest import Artifact, BatchRange, BuiltOn, Golden
from clinreadnet.runtime.verdict import this_machine
from clinreadnet.verify.run import golden_evidence, verify_artifact

if TYPE_CHECKING:  # the request is checked with the engines' options
    from clinreadnet.export.request import GraphRequest

ALONE = BatchRange(1, 1, 1)
"""Profile of graphs with dynamic scales: single slices, so that slices do not affect each other."""
SEARCH_SLICES = 3
"""Number of golden slices that `--fp32-islands auto` compares."""


class Graphs:
    """Writes the ONNX graphs of a bundle and their manifest entries.

    Args:
        model: float32 network in evaluation mode.
        request: the graphs that are wanted.
        golden: entry of the golden slices, which are written already.
        folder: folder of the bundle.
        scratch: folder of graphs that are only sources of others.
        bar: progress display.
        note: called with one line for each graph that exceeds its budget.
    """

    def __init__(
        self,
        model: ClinReadNet,
        request: GraphRequest,
        golden: Golden,
        folder: Path,
        scratch: Path,
        bar: Progress,
        note: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self._model, self._request, self._golden, self._scratch = model, request, golden, scratch
        self._bar, self._note = bar, note
        self._files: dict[str, Path] = {}
        self._islands: dict[str, tuple[str, ...]] = {}

    def write(self) -> list[Artifact]:
        """Write the graphs of the request; return their entries.

        Raises:
            CheckFailed: all graphs exceed their budgets.
        """
        wanted = dict.fromkeys(PRECISIONS[p].graph for p in self._request.precisions)
        task = self._bar.add_task("Exporting ONNX graphs", total=len(wanted))
        artifacts = []
        for precision in wanted:
            self._bar.update(task, description=f"Exporting the {precision} graph")
            artifact = self._entry(precision, self._write(precision, self.folder))
            if PRECISIONS[precision].quantized and (reason := self._missed(artifact)):
                (self.folder / artifact.file).unlink()
                self._note(f"no {precision} graph: {reason}")
            else:
                artifacts.append(artifact)
            self._bar.advance(task)
        if not artifacts:
            raise CheckFailed("no graph kept its budget: nothing is written; export fp32 too")
        return artifacts

    def float32_products(self, artifact: Artifact) -> dict[str, int] | None:
        """Count the products among the searched islands; None without a search."""
        if _lowered(artifact.precision) not in self._islands:
            return None
        source = onnx.load(self._source("fp32"))
        return float32_products(source, artifact.fp32_islands)

    def _write(self, precision: str, folder: Path) -> Path:
        path = folder / f"clinreadnet.{precision}.onnx"
        if PRECISIONS[precision].dynamic:
            quantize_dynamically(self._source(_lowered(precision)), path, precision=precision)
        elif PRECISIONS[precision].quantized_type:
            source = self._source(_lowered(precision))
            task = self._bar.add_task(f"Calibrating {precision}", total=None)
            quantize(source, path, precision=precision, hu=calibration_slices())
            self._bar.remove_task(task)
        elif self._request.auto_islands and precision in lowered_precisions():
            self._lower(precision, path)
        else:
            fused = self._request.fused_attention and precision in lowered_precisions()
            export_onnx(self._model, path, precision=precision, fused_attention=fused)
        self._files[precision] = path
        return path

    def _source(self, precision: str) -> Path:
        return self._files.get(precision) or self._write(precision, self._scratch)

    def _lower(self, precision: str, path: Path) -> None:
        source = onnx.load(self._source("fp32"))
        golden = read_golden(self.folder, self._golden, first=SEARCH_SLICES)
        task = self._bar.add_task(f"Searching the float32 islands of {precision}", total=None)
        islands = find_islands(
            source, precision, golden["hu"], golden, lambda: self._bar.advance(task)
        )
        self._bar.remove_task(task)
        self._islands[precision] = islands
        lowered = convert(source, precision, islands)
        lowered.doc_string = source.doc_string.replace("fp32", precision)
        onnx.save_model(lowered, path)

    def _entry(self, precision: str, path: Path) -> Artifact:
        content = path.read_bytes()
        toolchain = {
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxscript": onnxscript.__version__,
            "opset": str(PRECISIONS[precision].opset),
        }
        if PRECISIONS[precision].quantized_type:
            toolchain["nvidia-modelopt"] = version("nvidia-modelopt")
        if PRECISIONS[precision].dynamic:
            toolchain["onnxruntime"] = str(installed_version())
        machine = this_machine()
        return Artifact(
            file=path.name,
            kind="onnx",
            precision=precision,
            sha256=digest(content),
            size=len(content),
            batch=ALONE if PRECISIONS[precision].dynamic else self._request.batch,
            toolchain=toolchain,
            built_on=BuiltOn(machine.platform, machine.gpu, machine.driver),
            fp32_islands=self._islands.get(_lowered(precision), ()),
        )

    def _missed(self, artifact: Artifact) -> str | None:
        """Return why a graph exceeds its budget, or None."""
        evidence = golden_evidence(read_golden(self.folder, self._golden))
        parity = verify_artifact(self.folder, artifact, evidence)
        return None if parity.status == "passed" else parity.reason


def _lowered(precision: str) -> str:
    """Return the source precision of a quantised graph, otherwise the precision itself."""
    return PRECISIONS[precision].source or precision
