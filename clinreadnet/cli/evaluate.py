"""`clinreadnet evaluate`."""

from __future__ import annotations

from clinreadnet.cli.common import print_json
from clinreadnet.cli.options import Checkpoint, Json, LabelledFolder
from clinreadnet.console import Output, status


def evaluate(data: LabelledFolder, checkpoint: Checkpoint = None, as_json: Json = False) -> None:
    """Measure PLCC, SROCC and KROCC of the reference network against labels.

    Intervals are 95 % bootstrap intervals over slices. For a simulated folder the ceiling is also
    shown: the result of a perfect model of the noiseless quality. `clinreadnet verify --data`
    measures the artifacts of a bundle on the same folder.

    Examples:
    - `clinreadnet evaluate --data LDCTIQAG2023_test --json`
    - `clinreadnet evaluate --data slices --checkpoint run/model.safetensors`
    """
    with status("Importing PyTorch"):
        from clinreadnet.evaluation.labels import evaluate as measure
        from clinreadnet.evaluation.labels import table

    metrics = measure(data, checkpoint)
    if as_json:
        print_json(metrics)
    else:
        output = Output()
        output.print(table(metrics, output))
