"""Write the log of a run: `log.csv`, TensorBoard events, `curves.png` and `summary.json`."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clinreadnet.console import console
from clinreadnet.files import whole_file

EpochRow = dict[str, float]
"""Values of an epoch."""


class TrainingLog:
    """The rows of a run and their files. Files that need a missing package are omitted.

    Args:
        folder: the run folder.
        rows: rows of earlier epochs, for a resumed run.
    """

    def __init__(self, folder: Path, rows: list[EpochRow]):
        self.folder, self.rows = folder, rows
        self._events: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            step = int(rows[-1]["step"]) + 1 if rows else 0
            self._events = SummaryWriter(folder / "tensorboard", purge_step=step)

    def add(self, row: EpochRow) -> None:
        """Add an epoch to every file."""
        self.rows.append(row)
        with whole_file(self.folder / "log.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerows(self.rows)
        if self._events is not None:
            try:
                for name, value in row.items():
                    self._events.add_scalar(name, value, int(row["step"]))
                self._events.flush()
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.folder)) from error

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._events is not None:
            self._events.close()

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary and, if matplotlib is installed, the curves."""
        with whole_file(self.folder / "summary.json") as path:
            path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        if find_spec("matplotlib") is None:
            console.print('no curves.png: `pip install "clinreadnet[plot]"` brings matplotlib')
            return
        from clinreadnet.training.curves import write_curves

        write_curves(self.rows, self.folder / "curves.png")
