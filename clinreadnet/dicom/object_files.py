"""Write DICOM objects into a new folder atomically."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pydicom

from clinreadnet.dicom.silence import silent_libraries
from clinreadnet.files import whole_folder


@dataclass(frozen=True)
class ObjectFile:
    """A written file and the UIDs of its object."""

    path: Path
    sop_class: str
    sop_instance: str


def write_objects(objects: Iterable[tuple[str, pydicom.Dataset]], folder: Path) -> list[ObjectFile]:
    """Write objects into a new folder. If one fails, the folder is not created.

    Args:
        objects: file names and objects, generated one at a time.
        folder: folder to create; InputError if it exists or cannot be created.
    """
    written = []
    with whole_folder(folder, force=None) as temporary, silent_libraries():
        for name, dataset in objects:
            dataset.save_as(temporary / name, enforce_file_format=True)
            written.append(
                ObjectFile(folder / name, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
            )
    return written
