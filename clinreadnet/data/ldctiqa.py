"""Read and write LDCTIQA folders, the layout of the LDCTIQAC 2023 challenge's training set.

::

    folder/
      image/0000.tif ...   float32 [512, 512] in [0, 1], HU = 1400 x - 1000
      train.json           {"0000.tif": 2.8, ...}: the radiologists' mean score, 0 bad ... 4
                           excellent; test.json, or one file of another name, is read the same way
      simulation.json      simulated folders only: the anatomy of each image, what was measured
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from clinreadnet import limits
from clinreadnet.data.tif import read_tif, tif_shape
from clinreadnet.errors import InputError, counted, first_line
from clinreadnet.files import read_regular
from clinreadnet.spec import SIZE

LABELS_FILE = "train.json"
TEST_LABELS_FILE = "test.json"
IMAGES_FOLDER = "image"
SIMULATION_FILE = "simulation.json"

_CHALLENGE_FOLDERS = "LDCTIQAG2023_*"
_SIMULATION_ADVICE = "simulate the folder again, or delete this file to go without anatomies"

_LARGEST_NUMBER = 2**31 - 1  # of an anatomy, a patient, a noise level


class DataSource(TypedDict):
    """A folder that was trained on or measured."""

    name: str
    slices: int
    seed: int | None
    """Seed of the simulation; None if it is not recorded."""
    breadth: str | None
    """Breadth of the simulation, "standard" or "wide"; None for other folders."""


@dataclass(frozen=True)
class LdctiqaFolder:
    """An LDCTIQA folder; images are read on access.

    Attributes:
        folder: folder of the label file.
        names: file names, sorted.
        scores: ``[n]`` float32, the radiologists' mean score of each image, 0...4.
        simulation: content of ``simulation.json``; None without that file.
    """

    folder: Path
    names: list[str]
    scores: NDArray[np.float32]
    simulation: Mapping[str, Any] | None = None

    @cached_property
    def records(self) -> list[Mapping[str, Any]] | None:
        """Record of each image in ``simulation.json``, in order; None without that file."""
        if self.simulation is None:
            return None
        return [self.simulation["images"][name] for name in self.names]

    @property
    def source(self) -> DataSource:
        """What a record of training or evaluation says of the folder."""
        seed = None if self.simulation is None else self.simulation.get("seed")
        return DataSource(name=self.folder.name, slices=len(self), seed=seed, breadth=self.breadth)

    @property
    def breadth(self) -> str | None:
        """Recorded breadth of a simulated folder: "standard" or "wide"; None otherwise."""
        return None if self.simulation is None else self.simulation.get("breadth", "standard")

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """``[n]`` int64, anatomy or patient of each image; None if it is not recorded.

        Views of one patient's slices are different anatomies but one group: they belong to the same
        side of a split.
        """
        if self.records is None:
            return None
        groups = [record.get("group", record["anatomy"]) for record in self.records]
        return np.array(groups, np.int64)

    @property
    def quality(self) -> NDArray[np.float64] | None:
        """``[n]`` float64, recorded noiseless quality; None if an image has none."""
        qualities = [record.get("quality") for record in self.records or [{}]]
        if None in qualities:
            return None
        return np.array(qualities, np.float64)

    @property
    def denoised(self) -> NDArray[np.bool_]:
        """``[n]`` bool, whether each image is recorded as a denoised copy."""
        records = self.records or [{}] * len(self)
        return np.array([record.get("denoiser") is not None for record in records], np.bool_)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def name(self, index: int) -> str:
        """Return the file name of an image."""
        return self.names[index]

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.folder / IMAGES_FOLDER / self.names[index]

    def hu(self, index: int) -> NDArray[np.float32]:
        """Read an image: ``[512, 512]`` float32 Hounsfield units.

        Raises:
            InputError: as in `read_tif`.
        """
        return read_tif(self.path(index))


def _read_json_object(path: Path, purpose: str) -> dict[str, object]:
    """Read a JSON object. A repeated key is an error: JSON readers keep only the last value."""
    repeated: list[str] = []

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated.extend(sorted(key for key, count in counts.items() if count > 1))
        return members

    try:
        content = json.loads(
            read_regular(path, limits.LABELS).decode("utf-8"), object_pairs_hook=once
        )
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({first_line(error)}); {purpose}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: is not a JSON object; {purpose}")
    if repeated:
        raise InputError(
            f"{path}: {_count(repeated, 'name')} in it more than once, first {repeated[0]}; "
            "keep one of each"
        )
    return content


def _count(items: Sequence[object], noun: str) -> str:
    return f"{len(items)} {noun} is" if len(items) == 1 else f"{len(items)} {noun}s are"


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 4


def read_ldctiqa(folder: str | os.PathLike[str]) -> LdctiqaFolder:
    """Open an LDCTIQA folder, or a folder that contains one of the challenge's folders.

    Every labelled image must exist, and every image must have a label. The images themselves are
    checked by `check_images`, or when they are read.

    Raises:
        InputError: the folder or its labels are missing, an image has no label, a label has no
            image, a label is not a number in 0...4, or a name is repeated. The message gives the
            number of cases and the first one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise InputError(f"{folder}: {what}; name a folder with {LABELS_FILE} and image/*.tif")
    if not (folder / IMAGES_FOLDER).is_dir():
        inner = sorted(p for p in folder.glob(_CHALLENGE_FOLDERS) if p.is_dir())
        if len(inner) > 1:
            raise InputError(f"{folder}: holds {inner[0].name} and {inner[1].name}; name one")
        folder = inner[0] if inner else folder
    labels_path = _labels_path(folder)
    labels = _read_json_object(labels_path, 'it should be {"0000.tif": 2.8, ...}')
    if not labels:
        raise InputError(f"{labels_path}: names no image")
    names = sorted(labels)
    images = folder / IMAGES_FOLDER
    present = {path.name for path in images.iterdir()} if images.is_dir() else set()
    problems = []
    if outside := [name for name in names if not _is_score(labels[name])]:
        problems.append(
            f"{labels_path}: {_count(outside, 'score')} not a number 0...4, first {outside[0]}: "
            f"{labels[outside[0]]!r}; correct it"
        )
    if odd := [name for name in names if Path(name).name != name]:
        problems.append(f"{labels_path}: {odd[0]!r} is not the name of a file in {IMAGES_FOLDER}/")
    if missing := [name for name in names if name not in present and name not in odd]:
        problems.append(
            f"{images}: {_count(missing, 'labelled image')} missing, first {missing[0]}; "
            f"copy them there or take their labels out of {labels_path.name}"
        )
    suffixes = {Path(name).suffix for name in names}
    if extra := sorted(n for n in present - set(names) if Path(n).suffix in suffixes):
        problems.append(
            f"{images}: {_count(extra, 'image')} without a label, first {extra[0]}; "
            f"add it to {labels_path.name} or take the image out"
        )
    if problems:
        raise InputError("; ".join(problems))
    scores = np.array([labels[name] for name in names], np.float32)
    return LdctiqaFolder(folder, names, scores, _read_simulation(folder, names))


def check_images(folder: LdctiqaFolder) -> None:
    """Check from the headers that the images are 512x512 float32.

    Raises:
        InputError: some images are not; the message gives their number and the first.
    """
    wrong: list[str] = []
    for index, name in enumerate(folder.names):
        try:
            shape = tif_shape(folder.path(index))
        except InputError:
            shape = ()
        if shape != (SIZE, SIZE):
            what = "x".join(map(str, shape)) or "not a readable TIFF"
            wrong.append(f"{name}, which is {what}")
    if wrong:
        raise InputError(
            f"{folder.folder / IMAGES_FOLDER}: "
            f"{counted(len(wrong), 'image', len(folder), 'is')} not {SIZE}x{SIZE}, first "
            f"{wrong[0]}; "
            "do not resize them, which changes their noise: take them out"
        )


def _labels_path(folder: Path) -> Path:
    for name in (LABELS_FILE, TEST_LABELS_FILE):
        if (folder / name).is_file():
            return folder / name
    others = sorted(p for p in folder.glob("*.json") if p.name != SIMULATION_FILE)
    if len(others) != 1:
        raise InputError(
            f"{folder}: has no {LABELS_FILE} or {TEST_LABELS_FILE}; "
            f"an LDCTIQA folder holds {LABELS_FILE} and image/*.tif"
        )
    return others[0]


def _is_number(value: object) -> bool:
    """Return whether a value is an integer from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_NUMBER


_RECORDED: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(
        ("group", "noise_level", "views", "variant"), (_is_number, "a number from 0 on")
    ),
    "quality": (lambda value: value is None or _is_score(value), "0...4, or null"),
    "denoiser": (lambda value: value is None or isinstance(value, str), "a name, or null"),
    "slice": (lambda value: isinstance(value, str), "a file name"),
}
"""Optional fields of an image's record, with their checks."""


def _read_simulation(folder: Path, names: list[str]) -> dict[str, Any] | None:
    """Read ``simulation.json`` and check the record of every image.

    Returns None if the file does not exist.
    """
    path = folder / SIMULATION_FILE
    if not path.exists():
        return None
    simulation: dict[str, Any] = _read_json_object(path, _SIMULATION_ADVICE)
    if not isinstance(simulation.get("breadth", ""), str):
        raise InputError(f"{path}: `breadth` is not a name; {_SIMULATION_ADVICE}")
    if type(simulation.get("seed", 0)) is not int:
        raise InputError(f"{path}: `seed` is not a whole number; {_SIMULATION_ADVICE}")
    images = simulation.get("images")
    for name in names:
        record = images.get(name) if isinstance(images, dict) else None
        anatomy = record.get("anatomy") if isinstance(record, dict) else None
        if not isinstance(record, dict) or not _is_number(anatomy):
            raise InputError(f"{path}: does not give the anatomy of {name}; {_SIMULATION_ADVICE}")
        for key, (accepted, what) in _RECORDED.items():
            if key in record and not accepted(record[key]):
                raise InputError(f"{path}: `{key}` of {name} is not {what}; {_SIMULATION_ADVICE}")
    return simulation


def write_labels(
    folder: str | os.PathLike[str],
    labels: Mapping[str, float],
    simulation: Mapping[str, object] | None = None,
) -> None:
    """Write ``train.json`` and, if given, ``simulation.json`` into an LDCTIQA folder.

    Args:
        folder: the folder; write the images into its ``image`` with `write_tif`.
        labels: score of each file name.
        simulation: content of ``simulation.json``, with ``images[name]["anatomy"]``.
    """
    folder = Path(folder)
    (folder / LABELS_FILE).write_text(json.dumps(dict(labels), indent=1) + "\n", encoding="utf-8")
    if simulation is not None:
        text = json.dumps(dict(simulation), indent=1) + "\n"
        (folder / SIMULATION_FILE).write_text(text, encoding="utf-8")
