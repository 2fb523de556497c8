"""The LDCTIQA folder: the layout of the LDCTIQAC 2023 challenge's training set.

::

    folder/
      image/0000.tif ...   float32 [512, 512] in [0, 1], HU = 1400 x - 1000
      train.json           {"0000.tif": 2.8, ...}: the readers' mean score, 0 bad ... 4 excellent
      simulation.json      simulated folders only: the anatomy of each image, what was measured
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from clinreadnet.errors import InputError
from clinreadnet.grading import HU_MIN, HU_RANGE, SIZE

LABELS_FILE = "train.json"
IMAGES_FOLDER = "image"
SIMULATION_FILE = "simulation.json"

_CHALLENGE_FOLDER = "LDCTIQAG2023_train"
# The encoding of an exact 0 or 1 may come back from another program a rounding step outside.
_TOLERANCE = 1e-6


def encode(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return HU encoded as ``clip((HU + 1000) / 1400, 0, 1)``, float32, same shape."""
    scaled = (np.asarray(hu, np.float32) - np.float32(HU_MIN)) / np.float32(HU_RANGE)
    return np.asarray(np.clip(scaled, 0, 1), np.float32)


def decode(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the Hounsfield units of an encoded image, float32, same shape."""
    return np.asarray(x, np.float32) * np.float32(HU_RANGE) + np.float32(HU_MIN)


def write_tif(path: str | os.PathLike[str], hu: NDArray[np.float32]) -> None:
    """Write one slice ``[512, 512]`` of Hounsfield units as an encoded float32 TIFF."""
    # No software tag, no date: the same image is the same bytes.
    tifffile.imwrite(path, encode(hu), photometric="minisblack", metadata=None, software=False)


def read_tif(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read one encoded slice.

    Returns:
        ``[512, 512]`` float32 Hounsfield units, -1000...400.

    Raises:
        InputError: the file is missing or unreadable, is not 512x512, or holds values that are not
            numbers in [0, 1].
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    # tifffile logs what it also raises; the user gets one line.
    log = logging.getLogger("tifffile")
    was_disabled, log.disabled = log.disabled, True
    try:
        x = tifffile.imread(path)
        if x.size == 0:
            raise ValueError("no image in it")
    except Exception as error:  # tifffile raises whatever its codecs raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable TIFF ({reason}); copy it again") from error
    finally:
        log.disabled = was_disabled
    if x.shape != (SIZE, SIZE):
        raise InputError(
            f"{path}: is {'x'.join(map(str, x.shape))}; "
            f"an LDCTIQA image is one slice, {SIZE}x{SIZE}"
        )
    if x.dtype.kind != "f":
        raise InputError(
            f"{path}: holds {x.dtype}; an LDCTIQA image is float32 in [0, 1], "
            "(HU + 1000) / 1400: encode it so"
        )
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError(f"{path}: holds values that are not numbers; write it again without them")
    low, high = float(x.min()), float(x.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise InputError(
            f"{path}: values {low:.6g}...{high:.6g} are outside [0, 1]; "
            "encode HU as (HU + 1000) / 1400, clipped"
        )
    return decode(np.clip(x, 0, 1))


@dataclass(frozen=True)
class LdctiqaFolder:
    """An opened LDCTIQA folder; images are read when asked for.

    Attributes:
        folder: where ``train.json`` is.
        names: file names, sorted.
        scores: ``[n]`` float32, the readers' mean score of each, 0...4.
        groups: ``[n]`` int64, the anatomy each image shows; None where nothing tells it.
    """

    folder: Path
    names: list[str]
    scores: NDArray[np.float32]
    groups: NDArray[np.int64] | None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.folder / IMAGES_FOLDER / self.names[index]

    def hu(self, index: int) -> NDArray[np.float32]:
        """Read an image: ``[512, 512]`` float32 Hounsfield units.

        Raises:
            InputError: as :func:`read_tif`.
        """
        return read_tif(self.path(index))


def _read_json_object(path: Path, purpose: str) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {purpose}") from error
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); {purpose}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; {purpose}")
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_ldctiqa(folder: str | os.PathLike[str]) -> LdctiqaFolder:
    """Open an LDCTIQA folder, or a folder that holds the challenge's ``LDCTIQAG2023_train``.

    Every image that the labels name must exist; what is in them is checked when it is read.

    Raises:
        InputError: the folder, its labels or one of its images is missing, or a label is not a
            number in 0...4.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one with {LABELS_FILE} and image/*.tif")
    if not (folder / LABELS_FILE).exists() and (folder / _CHALLENGE_FOLDER).is_dir():
        folder = folder / _CHALLENGE_FOLDER
    labels_path = folder / LABELS_FILE
    if not labels_path.is_file():
        raise InputError(
            f"{folder}: has no {LABELS_FILE}; an LDCTIQA folder holds {LABELS_FILE} and image/*.tif"
        )
    labels = _read_json_object(labels_path, 'it should be {"0000.tif": 2.8, ...}')
    if not labels:
        raise InputError(f"{labels_path}: names no image")
    scores: list[float] = []
    names = sorted(labels)
    for name in names:
        value = labels[name]
        if not isinstance(value, (int, float)) or not _is_number(value) or not 0 <= value <= 4:
            raise InputError(f"{labels_path}: the score of {name} is {value!r}, not a number 0...4")
        if Path(name).name != name:
            raise InputError(f"{labels_path}: {name!r} is not the name of a file in image/")
        if not (folder / IMAGES_FOLDER / name).is_file():
            raise InputError(
                f"{folder / IMAGES_FOLDER / name}: no such file, but {LABELS_FILE} names it; "
                "copy it there or take its label out"
            )
        scores.append(float(value))
    return LdctiqaFolder(folder, names, np.array(scores, np.float32), _read_groups(folder, names))


def _read_groups(folder: Path, names: list[str]) -> NDArray[np.int64] | None:
    path = folder / SIMULATION_FILE
    if not path.exists():
        return None
    advice = "simulate the folder again, or delete this file to go without anatomies"
    images = _read_json_object(path, advice).get("images")
    groups: list[int] = []
    for name in names:
        entry = images.get(name) if isinstance(images, dict) else None
        anatomy = entry.get("anatomy") if isinstance(entry, dict) else None
        if not isinstance(anatomy, int) or isinstance(anatomy, bool):
            raise InputError(f"{path}: does not give the anatomy of {name}; {advice}")
        groups.append(anatomy)
    return np.array(groups, np.int64)


def write_labels(
    folder: str | os.PathLike[str],
    labels: Mapping[str, float],
    simulation: Mapping[str, object] | None = None,
) -> None:
    """Write ``train.json`` and, where given, ``simulation.json`` into an LDCTIQA folder.

    Args:
        folder: the folder; the images go into its ``image`` by :func:`write_tif`.
        labels: score of each file name.
        simulation: what is known about simulated images, with ``images[name]["anatomy"]``.
    """
    folder = Path(folder)
    (folder / LABELS_FILE).write_text(json.dumps(dict(labels), indent=1) + "\n", encoding="utf-8")
    if simulation is not None:
        text = json.dumps(dict(simulation), indent=1) + "\n"
        (folder / SIMULATION_FILE).write_text(text, encoding="utf-8")
